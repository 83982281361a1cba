"""Asking one plug-in what it offers."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pluggy

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.component import Component
from lightning_rlhf.plugin_system.hookspecs import GROUP, HOOKS, HookSpecs
from lightning_rlhf.plugin_system.isolation import guarded
from lightning_rlhf.plugin_system.tracing import Tracer

__all__ = ["OfferedComponent", "offered_components"]


@dataclass(frozen=True, slots=True)
class OfferedComponent:
    """A component and who offers it."""

    kind: str
    name: str
    target: Any
    summary: str
    distribution: str
    version: str

    @property
    def class_path(self) -> str:
        """The target's own import path, which works in a config whatever becomes of the short name."""
        if isinstance(self.target, str):
            return self.target.replace(":", ".")
        return f"{self.target.__module__}.{self.target.__qualname__}"


def offered_components(
    plugins: Sequence[object],
    distribution: str,
    version: str,
    tracer: Tracer | None = None,
    moved: list[str] | None = None,
) -> list[OfferedComponent]:
    """What the hooks of a distribution's plug-in objects offer, each hook called once.

    A name offered twice for one kind is in the list twice.

    Raises:
        PluginError: a hook is unknown, takes arguments, is a wrapper, raises, prints, reads input or returns something
            else than components.
    """
    tracer = tracer or Tracer()
    # A manager of its own for each distribution: what one of them breaks in it cannot reach another.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(HookSpecs)
    for plugin in {id(plugin): plugin for plugin in plugins}.values():
        guarded(partial(_register, manager, plugin), "reading its hooks", moved)
    offers = []
    for hook, kind in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            call = partial(_items, implementation.function, hook)
            ask = partial(guarded, call, f"hook {hook}", moved)
            for item in tracer.call(f"{distribution} {version}", f"{hook}()", ask):
                offers.append(OfferedComponent(kind, item.name, item.target, item.summary, distribution, version))
    return offers


def _register(manager: pluggy.PluginManager, plugin: object) -> None:
    for name in dir(plugin):
        member = inspect.getattr_static(plugin, name, None)
        if getattr(member, f"{GROUP}_spec", None):  # a specification could ask for the first result only
            raise PluginError(f"{name} must implement a hook, got a hook specification. Mark it with hookimpl.")
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in HOOKS and callable(member):
                raise PluginError(f"hook {name} must be marked with hookimpl, got a plain function.")
            continue
        hook = options.get("specname") or name
        if hook not in HOOKS and not options.get("optionalhook"):
            raise PluginError(f"a hook must be one of {', '.join(HOOKS)}, got {hook!r}.")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"hook {hook} must not be a wrapper: hooks only add names. Call hookimpl without it.")
    manager.register(plugin)


def _items(call: Callable[[], object], hook: str) -> list[Component]:
    """The hook's components, as a list: a generator runs here, under guard."""
    returned = call()
    if isinstance(returned, str | bytes | Component) or not isinstance(returned, Iterable):
        raise PluginError(f"hook {hook} must return an iterable of Component, got {type(returned).__name__}.")
    items = list(returned)
    for item in items:
        if not isinstance(item, Component):
            raise PluginError(f"hook {hook} must return components only, got {item!r:.80}.")
    return items
