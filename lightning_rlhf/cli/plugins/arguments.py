"""What a component takes: its arguments as the parser of `fit` sees them."""

import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from lightning_rlhf.errors import PluginError

__all__ = ["Argument", "arguments_of", "example_arguments"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a component."""

    name: str
    hint: Any
    default: Any
    required: bool
    help: str

    @property
    def described(self) -> str:
        """Its type and default, in one line."""
        return f"{_type_text(self.hint)}, {'required' if self.required else f'default {_value_text(self.default)}'}"


def arguments_of(component: type[Any]) -> list[Argument]:
    """The arguments of a published component, those that it passes on to its bases included.

    Raises:
        PluginError: its signature cannot be read.
    """
    parser = ArgumentParser(exit_on_error=False)
    try:
        names = parser.add_class_arguments(component, fail_untyped=False)
    except Exception as error:  # annotations are evaluated, and may fail in any way
        raise PluginError(
            f"the arguments of {component.__name__} must be readable, got {type(error).__name__}: {error}. "
            "Annotate them with types that can be imported."
        ) from error
    actions = {action.dest: action for action in parser._actions}
    return [
        Argument(
            name,
            getattr(actions[name], "_typehint", actions[name].type),
            actions[name].default,
            actions[name].required,
            " ".join((actions[name].help or "").split()),
        )
        for name in names
        if name in actions
    ]


def example_arguments(arguments: Sequence[Argument], example: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a config: the component's own `example`, else its defaults, and a stand-in for what has none."""
    values = {
        argument.name: _stand_in(argument.hint) if argument.required else _plain(argument.default)
        for argument in arguments
    }
    given = {name: value for name, value in values.items() if value is not None}
    return {**given, **{name: _plain(value) for name, value in example.items()}}


def _stand_in(hint: Any) -> Any:
    """The first of a few values that the type admits."""
    literals = [value for choice in _alternatives(hint) if get_origin(choice) is Literal for value in get_args(choice)]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    for candidate in (*literals, "...", 1, 1.0, True, [], {}):
        try:
            parser.parse_object({"value": candidate})
        except Exception:  # the type's own checks may fail in any way
            continue
        return candidate
    return None


def _plain(value: Any) -> Any:
    """The value as YAML holds it; None for what YAML cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value if type(value) in (bool, int, float, str) else None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _type_text(hint: Any) -> str:
    if hint is None or hint is type(None):
        return "null" if hint is not None else "any"
    alternatives = _alternatives(hint)
    if len(alternatives) > 1:
        return " | ".join(_type_text(alternative) for alternative in alternatives)
    if get_origin(hint) is Literal:
        return " | ".join(_value_text(value) for value in get_args(hint))
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+", "", str(hint))


def _value_text(value: Any) -> str:
    """The value as a config holds it."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # an object
        return str(value)
