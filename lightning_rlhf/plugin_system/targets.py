"""From a component's target to the class, or the function, behind it."""

import importlib
import inspect
import typing
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.isolation import guarded

__all__ = ["Target", "TargetLoader", "returned_class"]

Target = type[Any] | Callable[..., Any]
"""A class, or a function that makes an instance of the class in its return annotation."""


class TargetLoader:
    """Imports targets and remembers which modules it refused: one that printed stays in `sys.modules`, faultless."""

    def __init__(self) -> None:
        self._module_faults: dict[str, str] = {}
        self.moved: list[str] = []
        """What the last target that was loaded had changed for the whole process, and was put back."""

    def load(self, target: Any, base: type[Any]) -> Target:
        """The class or function that a target stands for, imported if it is a dotted name.

        Args:
            target: of a `Component`.
            base: the class that it must derive from, or return.

        Raises:
            PluginError: the target cannot be imported or found, or is not what the kind asks for.
        """
        self.moved = []
        found = self._imported(target) if isinstance(target, str) else target
        made = found if inspect.isclass(found) else returned_class(found)
        if not issubclass(made, base):
            bases = ", ".join(parent.__name__ for parent in made.__bases__)
            raise PluginError(f"its target must be a subclass of {base.__name__}, got {made.__name__}({bases}).")
        # An annotation may be wider than what the function makes; a class that is itself the target must be whole.
        if inspect.isclass(found) and inspect.isabstract(found):
            missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise PluginError(f"its target {found.__name__} must define {missing}.")
        return typing.cast(Target, found)

    def _imported(self, target: str) -> object:
        module_name, _, attribute = target.partition(":")
        if module_name in self._module_faults:
            raise PluginError(self._module_faults[module_name])
        try:
            found: object = guarded(
                partial(importlib.import_module, module_name), f"importing {module_name!r}", self.moved
            )
        except PluginError as error:
            self._module_faults[module_name] = str(error)
            raise
        for part in attribute.split("."):
            try:
                found = guarded(partial(getattr, found, part), f"importing {target!r}")
            except PluginError as error:
                if isinstance(error.__cause__, AttributeError):
                    raise PluginError(f"its target {target!r} must exist, got no {part!r} there.") from error
                raise
        return found


def returned_class(function: Any) -> type[Any]:
    """The class in a function's return annotation.

    Raises:
        PluginError: there is none, or it is no class.
    """
    if not inspect.isroutine(function):
        raise PluginError(f"its target must be a class or a function, got {function!r:.80}.")
    plain = inspect.unwrap(function)
    annotation = getattr(plain, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        # The return annotation alone: those of the arguments may name what only type checkers import.
        holder = SimpleNamespace(__annotations__={"return": annotation})
        try:
            annotation = typing.get_type_hints(holder, globalns=getattr(plain, "__globals__", {}))["return"]
        except Exception as error:
            raise PluginError(f"the return annotation of its target must be readable, got {error}.") from error
    if not inspect.isclass(annotation):
        name = getattr(function, "__qualname__", repr(function))
        raise PluginError(f"its target {name} must be annotated with the class it returns, got {annotation!r:.80}.")
    return annotation
