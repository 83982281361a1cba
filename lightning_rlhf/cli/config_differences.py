"""How the config of a run that is resumed differs from the one that it began with."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml

from lightning_rlhf.cli.resumed_config import OF_ONE_CALL

__all__ = ["config_differences"]


def config_differences(before: str, now: str, given: Collection[str] | None = None) -> list[str]:
    """One line per argument whose value differs.

    Args:
        before: the earlier config, as YAML.
        now: the config of this call.
        given: dotted names of the arguments that this call gives: one that it leaves out and that an earlier version
            did not have is no difference; None: all.

    >>> config_differences("model: {rate: 1, depth: 2}", "model: {rate: 3, depth: 2}")
    ['model.rate: 1 -> 3']
    """
    old, new = (dict(_leaves(yaml.safe_load(text) or {})) for text in (before, now))
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if given is not None:
        names = [name for name in names if name in old or name in given or _stood_above(name, old)]
    return [f"{name}: {_shown(old, name)} -> {_shown(new, name)}" for name in names if name not in OF_ONE_CALL]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value under its dotted name; members of lists by their place."""
    members = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else None
    if not members:
        yield name, value
        return
    for key, member in members.items():
        yield from _leaves(member, f"{name}.{key}" if name else str(key))


def _stood_above(name: str, leaves: Mapping[str, Any]) -> bool:
    """Whether something else, such as null, stood where the argument now is a part of a component."""
    above = name.split(".")[:-1]
    return any(".".join(above[:length]) in leaves for length in range(1, len(above) + 1))


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    if name not in leaves:
        return "(not there)"
    value = leaves[name]
    return "null" if value is None else str(value)
