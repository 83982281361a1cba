"""How the config of a run that is resumed differs from the one that it began with."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

__all__ = ["config_differences"]

_OF_ONE_CALL = ("ckpt_path", "config", "overwrite", "trainer.default_root_dir", "weights_only")
"""What says how a run is started, not what it does."""


def config_differences(before: str, now: str) -> list[str]:
    """One line per argument whose value differs.

    Args:
        before: the earlier config, as YAML.
        now: the config of this call.

    >>> config_differences("model: {rate: 1, depth: 2}", "model: {rate: 3, depth: 2}")
    ['model.rate: 1 -> 3']
    """
    old, new = (dict(_leaves(yaml.safe_load(text) or {})) for text in (before, now))
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [f"{name}: {_shown(old, name)} -> {_shown(new, name)}" for name in names if name not in _OF_ONE_CALL]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value under its dotted name; members of lists by their place."""
    members = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else None
    if not members:
        yield name, value
        return
    for key, member in members.items():
        yield from _leaves(member, f"{name}.{key}" if name else str(key))


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    if name not in leaves:
        return "(not there)"
    value = leaves[name]
    return "null" if value is None else str(value)
