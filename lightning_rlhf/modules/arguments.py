"""Checks of arguments, each a `ConfigError` in the house form."""

from collections.abc import Sequence
from typing import get_args

from lightning_rlhf.errors import ConfigError

__all__ = ["require", "require_at_least", "require_one_of", "require_share"]


def require(condition: bool, subject: str, rule: str, value: object) -> None:
    """Raises `ConfigError` in the house form unless the condition holds."""
    if not condition:
        raise ConfigError(f"{subject} must {rule}, got {value}.")


def require_at_least(least: int, **arguments: float) -> None:
    """Raises `ConfigError` for the first argument that is smaller, or that is no number."""
    for name, value in arguments.items():
        require(value >= least, name, f"be {least} or more" if least == 0 else f"be at least {least}", value)


def require_share(**arguments: float) -> None:
    """Raises `ConfigError` for the first argument outside 0 to 1."""
    for name, value in arguments.items():
        require(0 <= value <= 1, name, "be between 0 and 1", value)


def require_one_of(choices: object, name: str, value: object) -> None:
    """Raises `ConfigError` unless a `Literal` names the value: a notebook has no parser that would have checked it."""
    offered: Sequence[object] = get_args(choices)
    require(value in offered, name, f"be one of {', '.join(map(str, offered))}", repr(value))
