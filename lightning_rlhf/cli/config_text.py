"""Limits on the YAML of a config: data of a size and depth that a person writes."""

import re

import yaml

from lightning_rlhf.errors import ConfigError

__all__ = ["check_yaml"]

_MOST_NODES = 100_000
_DEEPEST = 100
_LONG_NUMBER = re.compile(r"[-+]?[0-9][0-9_.]{999,}")
"""Python reads and writes no integer of more than 4,300 digits."""


def check_yaml(text: str, subject: str) -> None:
    """Refuses text that would not end when it is read: aliases within themselves, or of aliases of aliases.

    Text that is no YAML is left to the parser to complain of.

    Args:
        text: the YAML.
        subject: where it comes from, for the message.

    Raises:
        ConfigError: it holds an alias within itself, more than 100,000 values once aliases are put in, more than 100
            levels, or a number of a thousand digits.
    """
    try:
        _check(text, subject)
    except yaml.YAMLError:
        return


def _check(text: str, subject: str) -> None:
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    """Anchor and number of values so far of each collection that is not over."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        size, anchor = 0, getattr(event, "anchor", None)
        match event:
            case yaml.CollectionStartEvent():
                opened.append((anchor, 1))
                if len(opened) > _DEEPEST:
                    raise ConfigError(f"{subject} must be nested at most {_DEEPEST} levels deep, got more.")
            case yaml.CollectionEndEvent():
                anchor, size = opened.pop()
            case yaml.ScalarEvent():
                size = 1
                if event.style is None:
                    _check_number(event.value, subject)
            case yaml.AliasEvent():
                if any(name == anchor for name, _ in opened):
                    raise ConfigError(f"{subject} must end, got the alias *{anchor} within what it stands for.")
                size = sizes.get(str(anchor), 1)
        if size and anchor is not None:
            sizes[anchor] = size
        if size and opened:
            name, so_far = opened[-1]
            opened[-1] = (name, so_far + size)
        if size > _MOST_NODES:
            raise ConfigError(f"{subject} must hold at most {_MOST_NODES:,} values, got more once aliases are put in.")


def _check_number(text: str, subject: str) -> None:
    if _LONG_NUMBER.fullmatch(text):
        raise ConfigError(f"{subject} must hold numbers that fit, got one of {len(text):,} digits: {text[:10]}….")
