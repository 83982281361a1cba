"""The numbers of a parsed config: every one that was given is finite."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lightning_rlhf.arguments import not_finite, require_finite

__all__ = ["check_numbers"]


def check_numbers(config: Mapping[str, Any]) -> None:
    """Refuses nan and inf for any argument, of a plug-in's or a user's own class as well.

    A number that a class has by default is its author's to choose.

    Args:
        config: of one command, in plain mappings and lists.

    Raises:
        ConfigError: a number is not finite; says where.
    """
    if any(True for _ in not_finite(config)):
        require_finite(_given(config))


def _given(value: Any) -> Any:
    """The config without `init_args` in its places, and without those that stand at their default."""
    if isinstance(value, list | tuple):
        return [_given(member) for member in value]
    if not isinstance(value, Mapping):
        return value
    given = {name: _given(member) for name, member in value.items()}
    if not isinstance(arguments := given.get("init_args"), dict):
        return given
    defaults = _defaults(str(given.get("class_path")))
    return {name: member for name, member in arguments.items() if member != defaults.get(name, inspect.Parameter.empty)}


def _defaults(class_path: str) -> dict[str, Any]:
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}
