"""Checks of arguments, each a `ConfigError` in the house form."""

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import get_args

from lightning_rlhf.errors import ConfigError, shown

__all__ = [
    "not_finite",
    "require",
    "require_at_least",
    "require_finite",
    "require_one_of",
    "require_positive",
    "require_share",
]


def require(condition: bool, subject: str, rule: str, value: object) -> None:
    """Raises `ConfigError` in the house form unless the condition holds."""
    if not condition:
        raise ConfigError(f"{subject} must {rule}, got {value}.")


def require_at_least(least: int, /, *, of: str = "", **arguments: float) -> None:
    """Raises `ConfigError` for the first argument that is smaller, or that is no finite number.

    Args:
        least: the smallest that may be.
        of: whose arguments they are, where their names alone do not say it.
        **arguments: the numbers.
    """
    for name, value in arguments.items():
        subject = _number(name, of, value)
        require(value >= least, subject, f"be {least} or more" if least == 0 else f"be at least {least}", value)


def require_positive(*, of: str = "", **arguments: float) -> None:
    """Raises `ConfigError` for the first argument that is not above 0, or that is no finite number."""
    for name, value in arguments.items():
        subject = _number(name, of, value)
        require(value > 0, subject, "be positive", value)


def require_share(*, of: str = "", **arguments: float) -> None:
    """Raises `ConfigError` for the first argument outside 0 to 1."""
    for name, value in arguments.items():
        subject = _number(name, of, value)
        require(0 <= value <= 1, subject, "be between 0 and 1", value)


def require_one_of(choices: object, name: str, value: object) -> None:
    """Raises `ConfigError` unless a `Literal` names the value: a notebook has no parser that would have checked it."""
    offered: Sequence[object] = get_args(choices)
    require(value in offered, name, f"be one of {', '.join(map(str, offered))}", repr(value))


def require_finite(arguments: Mapping[str, object]) -> None:
    """Raises `ConfigError` for the first number in the arguments, or in lists and mappings in them, that is not finite.

    Args:
        arguments: of a module, a component or a whole config, by name. What is neither number, list nor mapping is
            left alone.
    """
    for place, value in not_finite(arguments):
        raise ConfigError(f"{place} must be a finite number, got {value}.")


def not_finite(arguments: object, place: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested arguments that are not finite, each with its dotted name.

    >>> list(not_finite({"rewards": [{"scale": math.inf}, {"scale": 1.0}], "alpha": 1}))
    [('rewards.0.scale', inf)]
    """
    if isinstance(arguments, float):
        if not math.isfinite(arguments):
            yield place, arguments
    elif isinstance(arguments, Mapping):
        for name, value in arguments.items():
            yield from not_finite(value, f"{place}.{name}" if place else str(name))
    elif isinstance(arguments, list | tuple):
        for index, value in enumerate(arguments):
            yield from not_finite(value, f"{place}.{index}" if place else str(index))


def _number(name: str, of: str, value: object) -> str:
    """The subject of a message about an argument that is a finite number."""
    subject = f"{name} of {of}" if of else name
    try:
        is_finite = isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        is_finite = False
    require(is_finite, subject, "be a finite number", shown(value))
    return subject
