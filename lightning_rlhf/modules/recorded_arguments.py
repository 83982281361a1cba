"""The arguments of a module as its checkpoints keep them: plain values alone."""

from collections.abc import Mapping
from typing import Any

__all__ = ["adapter_settings", "is_plain"]


def adapter_settings(adapter: object) -> dict[str, Any]:
    """What an adapter's trained weights stand and fall with; dropout may change."""
    settings = {} if adapter is None else vars(adapter)
    kept = {name: value for name, value in settings.items() if name != "dropout" and is_plain(value)}
    return {"adapter": None if adapter is None else type(adapter).__name__} | {
        f"adapter.{name}": value for name, value in kept.items()
    }


def is_plain(value: object) -> bool:
    """Whether a value is one that loading weights alone admits."""
    if isinstance(value, Mapping):
        return all(is_plain(member) for member in value.values())
    if isinstance(value, list | tuple):
        return all(is_plain(member) for member in value)
    return value is None or type(value) in (bool, int, float, str)
