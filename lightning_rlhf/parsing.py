"""Parsers that take what a user names for a name: only the file after `--config` is read as a config.

jsonargparse would read any path or URL that stands in the place of a class, and let the text in it choose the class;
and it would import `model` to see whether `model.gguf` is one. A model, a data file or a checkpoint that somebody else
has written must not decide which code runs.
"""

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

from jsonargparse import ArgumentParser
from jsonargparse._actions import _ActionConfigLoad
from jsonargparse._core import ArgumentGroup
from jsonargparse._loaders_dumpers import get_loader_exceptions, load_value
from jsonargparse._typehints import ActionTypeHint

from lightning_rlhf.errors import ConfigError, shown

__all__ = ["NameParser", "NamesOnly", "instantiate_module"]

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""What could be imported."""
_SUFFIXES = (
    *(".bin", ".ckpt", ".gguf", ".pt", ".pth", ".safetensors"),
    *(".arrow", ".csv", ".gz", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt", ".yaml", ".yml"),
)
"""Of files that are named in configs, there or not."""


class NamesOnly(ArgumentParser):
    """A parser whose arguments read no file: a class is given by its name, or by a mapping.

    Args:
        **kwargs: as for the base class.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._group_class = _Group  # every argument of a class or a function is added to a group


class NameParser(NamesOnly):
    """Raises what it finds wrong; for arguments that come from somewhere else than the command line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"exit_on_error": False, **kwargs})


def instantiate_module(class_type: type[Any], config: Mapping[str, Any]) -> Any:
    """A module made with the arguments that a checkpoint holds, in the place of Lightning's function of this name.

    Args:
        class_type: the class, or a base of it.
        config: its arguments, with the class itself under `_class_path`.
    """
    parser = NameParser()
    arguments: dict[str, Any] = dict(config)
    if "_class_path" in arguments:
        parser.add_subclass_arguments(class_type, "module", fail_untyped=False)
        arguments = {"class_path": arguments.pop("_class_path"), "dict_kwargs": arguments}
    else:
        parser.add_class_arguments(class_type, "module", fail_untyped=False)
    return parser.instantiate_classes(parser.parse_object({"module": arguments})).module


class _Group(ArgumentGroup):
    """Where a parser adds the arguments of a class."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        action = super().add_argument(*args, **kwargs)
        if type(action) is ActionTypeHint:
            action.__class__ = _Named
            action._enable_path = False
        elif type(action) is _ActionConfigLoad:
            action.__class__ = _Mapped
        return action


class _Named(ActionTypeHint):
    """An argument with a type, which may be a class."""

    def _check_type_(self, value: Any, **kwargs: Any) -> Any:
        return super()._check_type_(_as_paths(value) if _imports(self._typehint) else value, **kwargs)


class _Mapped(_ActionConfigLoad):
    """An argument that stands for all arguments of one class."""

    def _load_config(self, value: Any, parser: Any) -> Any:
        if isinstance(value, str):
            value = _as_paths(value)
            try:
                loaded = load_value(value)
            except get_loader_exceptions():
                loaded = None
            if isinstance(loaded, dict):
                value = loaded
            elif self.resolve_subclass_spec(value) is value:  # not even the name of the class itself
                raise ConfigError(
                    f"{self.dest} must be a mapping of its arguments, got {shown(value)}. Only --config reads a file."
                )
        return super()._load_config(value, parser)


def _imports(hint: Any) -> bool:
    """Whether a string given for this type may be the name of something to import."""
    members = get_args(hint)
    if members and not ActionTypeHint.is_callable_typehint(hint):
        return any(_imports(member) for member in members)
    return any(
        is_one(hint)
        for is_one in (
            partial(ActionTypeHint.is_subclass_typehint, also_closed=True),
            ActionTypeHint.is_callable_typehint,
            ActionTypeHint.is_module_typehint,
        )
    )


def _as_paths(value: Any) -> Any:
    """The value, with what names a file or a folder written so that nobody can take it for an import path."""
    if isinstance(value, list):
        return [_as_paths(member) for member in value]
    if isinstance(value, str) and _DOTTED.fullmatch(value) and (value.endswith(_SUFFIXES) or os.path.lexists(value)):
        return f"./{value}"
    return value
