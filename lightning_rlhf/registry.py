"""Plug-in components as importable classes with short names.

Each component is published as an empty subclass `lightning_rlhf.registry.<kind>.<name>` of its target. That is all
that jsonargparse needs to know it: the short name resolves, `init_args` have the target's types, `--help` describes
them, and a saved config or a pickle names a path that any later process can import. The modules of the kinds exist from
the import of this one on; a component's target is imported when its class is first asked for.
"""

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from lightning_rlhf.errors import ConfigError, PluginError, UnknownComponentError
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import Manager, plugin_manager
from lightning_rlhf.plugin_system.provenance import remember_name
from lightning_rlhf.plugin_system.targets import returned_class

__all__ = ["check_importable", "create", "deny_imports", "lookup", "publish"]


def publish() -> None:
    """Make every component known to jsonargparse; call it before a parser is built.

    Imports every target. One with a fault is set aside with a warning. From then on a config cannot name what
    `deny_imports` denies.

    Raises:
        PluginError: in strict mode, for the first fault.
    """
    deny_imports()
    manager = plugin_manager()
    for kind in KINDS:
        for name in manager.components(kind):
            try:
                _published(manager, kind, name)
            except UnknownComponentError:
                continue  # set aside; the manager has warned


def deny_imports() -> None:
    """Have jsonargparse refuse what no config has a use for but to do harm: os, subprocess, pickle and the like."""
    from jsonargparse import set_parsing_settings

    set_parsing_settings(import_path_denylist=[])  # to its own list, which is then enforced and not just warned of


def check_importable(path: str) -> None:
    """Hold a function that a config names to the rules that class paths are held to.

    Args:
        path: `package.module.name`. That it is there, and is a function, is not checked.

    Raises:
        ConfigError: it is denied, or is another name for what is denied.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    deny_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--function", type=Callable)
    try:
        parser.parse_object({"function": path})
    except ArgumentError as error:
        if "import path denylist" in str(error):
            raise ConfigError(
                f"a function that a config names must not reach into the system, got {path!r}, which jsonargparse "
                "denies. Write a function of your own around what you need of it."
            ) from None
    except Exception:  # its module fails to import: whoever needs it will say so
        return


def lookup(kind: str, name: str) -> type[Any]:
    """The class of a short name.

    Args:
        kind: one of dataset, prompt_template, reward_function, ranking_converter, model.
        name: as the plug-in offers it.

    Raises:
        UnknownComponentError: nobody offers the name, two plug-ins do, or it was set aside; the message says which.
    """
    return _published(plugin_manager(), kind, name)


def create(kind: str, name: str, /, **init_args: Any) -> Any:
    """A component, made with the given arguments.

    Args:
        kind: as for `lookup`.
        name: as for `lookup`.
        **init_args: what its target takes.

    Raises:
        UnknownComponentError: as for `lookup`.
    """
    return lookup(kind, name)(**init_args)


@functools.cache
def _published(manager: Manager, kind: str, name: str) -> type[Any]:
    offer = manager.find(kind, name)
    target = manager.resolve(kind, name)
    try:
        if inspect.isclass(target):
            # A class of that very name is found by it already; a subclass would make the name ambiguous.
            return target if target.__name__ == name else _subclass(target, kind, name)
        return _subclass_of_returned(target, kind, name)
    except Exception as error:  # a class may refuse to be derived from
        manager.set_aside(offer, f"deriving from its target raised {type(error).__name__}: {error}")
        manager.find(kind, name)
        raise


def _subclass(target: type[Any], kind: str, name: str) -> type[Any]:
    place = {"__module__": f"{__name__}.{kind}", "__qualname__": name}
    return types.new_class(name, (target,), exec_body=lambda namespace: namespace.update(place))


def _subclass_of_returned(function: Callable[..., Any], kind: str, name: str) -> type[Any]:
    """A class whose call is a call of the function, with the function's parameters and help."""
    from jsonargparse.typing import class_from_function  # not at the top: most processes publish classes only

    made = returned_class(function)
    # jsonargparse leaves the class in the module that calls, under the name given; it is moved to its own place.
    temporary = f"_{kind}_{name}"
    published: type[Any] = class_from_function(function, made, name=temporary)
    delattr(sys.modules[__name__], temporary)
    published.__module__, published.__name__, published.__qualname__ = f"{__name__}.{kind}", name, name
    # The annotation may name an abstract class, which parsers do not offer; what the function makes is none.
    published.__abstractmethods__ = frozenset()

    def make(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        component = function(*args, **kwargs)
        if not isinstance(component, made):
            raise PluginError(f"{kind} {name!r} must make a {made.__name__}, got a {type(component).__name__}.")
        remember_name(component, kind, name)
        return component

    published.__new__ = make  # type: ignore[assignment]
    return published


class _KindModule(types.ModuleType):
    """`lightning_rlhf.registry.<kind>`: its attributes are the classes of the kind's components."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # probed by the import system, pickle and inspect
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            return lookup(self.__name__.rpartition(".")[2], name)
        except UnknownComponentError as error:
            raise AttributeError(str(error), name=name, obj=self) from error

    def __dir__(self) -> list[str]:
        return sorted(plugin_manager().components(self.__name__.rpartition(".")[2]))


def _add_kind_modules() -> None:
    for kind in KINDS:
        module = _KindModule(f"{__name__}.{kind}", f"Components of kind {kind}, by short name.")
        sys.modules[module.__name__] = module
        setattr(sys.modules[__name__], kind, module)


_add_kind_modules()
