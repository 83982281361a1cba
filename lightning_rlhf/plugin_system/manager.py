"""All plug-ins of this process: found, checked, asked, and set aside where they have a fault."""

import difflib
import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import Distribution, EntryPoint
from typing import Literal

from lightning_rlhf.errors import ConfigError, PluginError, UnknownComponentError
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.discovery import BUILTIN, Installed, Selection, installed_plugins
from lightning_rlhf.plugin_system.hookspecs import BASES
from lightning_rlhf.plugin_system.isolation import guarded
from lightning_rlhf.plugin_system.offers import OfferedComponent, offered_components
from lightning_rlhf.plugin_system.reporting import Reporter
from lightning_rlhf.plugin_system.targets import Target, TargetLoader
from lightning_rlhf.plugin_system.tracing import Tracer
from lightning_rlhf.version import __version__

__all__ = ["Manager", "PluginRecord", "Status", "plugin_manager"]

Status = Literal["active", "disabled", "broken", "incompatible"]

_BUILTIN_MODULE = "lightning_rlhf.builtins.plugin"  # by name: built-in components stand above the plug-in system


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """A distribution with plug-ins, and what became of it."""

    distribution: str
    version: str
    status: Status
    reason: str | None = None
    """Why it is not active."""
    components: tuple[OfferedComponent, ...] = ()
    withheld: tuple[OfferedComponent, ...] = ()
    """What a broken plug-in would have offered, as far as it could be asked."""


class Manager:
    """The plug-ins of this process.

    Args:
        distributions: where to look for plug-ins; None: everything on the import path.
        environ: the environment variables that select plug-ins; None: those of this process.

    Raises:
        PluginError: in strict mode, the first fault.
    """

    def __init__(
        self, distributions: Iterable[Distribution] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        environ = os.environ if environ is None else environ
        self._reporter = Reporter(strict=environ.get("LIGHTNING_RLHF_STRICT_PLUGINS", "") not in ("", "0"))
        self._tracer = Tracer.from_environment(environ)
        self._movers: set[str] = set()
        builtin = offered_components([importlib.import_module(_BUILTIN_MODULE)], BUILTIN, __version__, self._tracer)
        reserved = {(offer.kind, offer.name) for offer in builtin}
        selection = Selection.from_environment(environ)
        records = [PluginRecord(BUILTIN, __version__, "active", None, tuple(builtin))]
        for plugin in installed_plugins(distributions):
            moved: list[str] = []
            record = _examined(plugin, selection, reserved, self._tracer, moved)
            records.append(record)
            self._report_moved(_named(record), moved)
            if record.status in ("broken", "incompatible"):
                self._reporter.report(_set_aside(_named(record), record.reason))
        self.plugins: tuple[PluginRecord, ...] = tuple(records)
        """Every plug-in, the built-in one first."""
        self._offers: dict[tuple[str, str], list[OfferedComponent]] = {}
        for record in records:
            for offer in record.components:
                self._offers.setdefault((offer.kind, offer.name), []).append(offer)
        self._faults: dict[tuple[str, str], str] = {}
        self._loader = TargetLoader()
        self._targets: dict[tuple[str, str], Target] = {}
        if self._reporter.strict:
            for offers in self._offers.values():
                if len(offers) > 1:
                    raise PluginError(_conflict(offers))

    def components(self, kind: str) -> Mapping[str, OfferedComponent]:
        """The components of a kind by short name, less those set aside and the names that two plug-ins offer."""
        _check_kind(kind)
        return {
            name: offers[0]
            for (of_kind, name), offers in self._offers.items()
            if of_kind == kind and len(offers) == 1 and (kind, name) not in self._faults
        }

    def conflicts(self, kind: str) -> Mapping[str, Sequence[OfferedComponent]]:
        """The short names of a kind that more than one plug-in offers; their class paths work."""
        _check_kind(kind)
        return {name: tuple(o) for (of_kind, name), o in self._offers.items() if of_kind == kind and len(o) > 1}

    def find(self, kind: str, name: str) -> OfferedComponent:
        """The component of a short name.

        Raises:
            UnknownComponentError: nobody offers it, two plug-ins do, or it was set aside; the message says which.
        """
        _check_kind(kind)
        offers = self._offers.get((kind, name), [])
        if len(offers) > 1:
            raise UnknownComponentError(_conflict(offers))
        if (kind, name) in self._faults:
            raise UnknownComponentError(self._faults[kind, name])
        if offers:
            return offers[0]
        for record in self.plugins:
            for offer in record.withheld:
                if (offer.kind, offer.name) == (kind, name):
                    raise UnknownComponentError(
                        f"{_spoken(kind)} {name!r} cannot be used: {_set_aside(_named(record), record.reason)}"
                    )
        raise UnknownComponentError(self._unknown(kind, name))

    def resolve(self, kind: str, name: str) -> Target:
        """The class or function behind a short name, imported on the first call.

        Raises:
            UnknownComponentError: as `find`, or its target has a fault and is now set aside.
            PluginError: in strict mode, for the fault.
        """
        offer = self.find(kind, name)
        if (kind, name) not in self._targets:
            try:
                load = partial(self._loader.load, offer.target, BASES[kind])
                who = f"{offer.distribution} {offer.version}"
                self._targets[kind, name] = self._tracer.call(who, f"{kind} {name}", load)
                self._report_moved(f"plug-in {who}", self._loader.moved)
            except PluginError as error:
                self.set_aside(offer, str(error))
                raise UnknownComponentError(self._faults[kind, name]) from error
        return self._targets[kind, name]

    def set_aside(self, offer: OfferedComponent, reason: str) -> None:
        """Withdraw a component whose target has a fault, with one warning.

        Raises:
            PluginError: in strict mode.
        """
        subject = f"{_spoken(offer.kind)} {offer.name!r} of plug-in {offer.distribution} {offer.version}"
        message = _set_aside(subject, reason)
        self._faults[offer.kind, offer.name] = message
        self._reporter.report(message)

    def _report_moved(self, subject: str, names: Sequence[str]) -> None:
        """Warns, once for each plug-in, of what it changed for the whole process when it was imported."""
        if names and subject not in self._movers:
            self._movers.add(subject)
            changed = ", ".join(dict.fromkeys(names))
            self._reporter.report(f"{subject} must change nothing but itself when it is imported: put back {changed}.")

    def versions(self) -> dict[str, str]:
        """The version of each active distribution: what a config and a checkpoint record."""
        return {record.distribution: record.version for record in self.plugins if record.status == "active"}

    def _unknown(self, kind: str, name: str) -> str:
        offered = sorted(self.components(kind))
        near = difflib.get_close_matches(name, offered, n=3)
        message = f"{_spoken(kind)} must be one of {', '.join(offered) or 'none'}, got {name!r}."
        if near:
            message += f" Did you mean {' or '.join(near)}?"
        inactive = [f"{_named(record)} ({record.status}: {record.reason})" for record in self.plugins if record.reason]
        if inactive:
            message += f" These plug-ins are not loaded: {'; '.join(inactive)}."
        return message


@cache
def plugin_manager() -> Manager:
    """The one manager of this process."""
    return Manager()


def _examined(
    plugin: Installed, selection: Selection, reserved: set[tuple[str, str]], tracer: Tracer, moved: list[str]
) -> PluginRecord:
    """The record of one installed plug-in; its code runs only if nothing forbids that beforehand."""
    refusal = selection.refusal(plugin.name)
    if refusal is not None:
        tracer.say(f"{plugin.name} {plugin.version}", f"not asked: {refusal}")
        return PluginRecord(plugin.name, plugin.version, "disabled", refusal)
    requirement = plugin.excluded_by()
    if requirement is not None:
        reason = f"it requires {requirement}, this is {__version__}"
        tracer.say(f"{plugin.name} {plugin.version}", f"not asked: {reason}")
        return PluginRecord(plugin.name, plugin.version, "incompatible", reason)
    offers: list[OfferedComponent] = []
    try:
        objects = [_imported(plugin, point, tracer, moved) for point in plugin.entry_points]
        offers = offered_components(objects, plugin.name, plugin.version, tracer, moved)
        _check_names(offers, reserved)
    except PluginError as error:
        reason = str(error).rstrip(".")
        return PluginRecord(plugin.name, plugin.version, "broken", reason, withheld=tuple(offers))
    return PluginRecord(plugin.name, plugin.version, "active", None, tuple(offers))


def _imported(plugin: Installed, point: EntryPoint, tracer: Tracer, moved: list[str]) -> object:
    doing = f"importing {point.value!r}"
    return tracer.call(f"{plugin.name} {plugin.version}", doing, partial(guarded, point.load, doing, moved))


def _check_names(offers: Iterable[OfferedComponent], reserved: set[tuple[str, str]]) -> None:
    seen: set[tuple[str, str]] = set()
    for offer in offers:
        key = (offer.kind, offer.name)
        if key in reserved:
            raise PluginError(f"{_spoken(offer.kind)} {offer.name!r} must not take the name of a built-in component.")
        if key in seen:
            raise PluginError(f"{_spoken(offer.kind)} {offer.name!r} must be offered once, got it twice.")
        seen.add(key)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"the kind of a component must be one of {', '.join(KINDS)}, got {kind!r}.")


def _spoken(kind: str) -> str:
    return kind.replace("_", " ")


def _named(record: PluginRecord) -> str:
    return f"plug-in {record.distribution} {record.version}"


def _set_aside(subject: str, reason: str | None) -> str:
    return f"{subject} is set aside: {(reason or '').rstrip('.')}."


def _conflict(offers: Sequence[OfferedComponent]) -> str:
    owners = " and ".join(f"{offer.distribution} {offer.version} ({offer.class_path})" for offer in offers)
    first = offers[0]
    return (
        f"{_spoken(first.kind)} {first.name!r} must have one owner, got {owners}. "
        "Give the class path of the one that is meant, or disable the other with LIGHTNING_RLHF_DISABLE_PLUGINS."
    )
