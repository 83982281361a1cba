"""Which installed distributions are plug-ins, and which of them may be loaded."""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.hookspecs import GROUP
from lightning_rlhf.version import __version__

__all__ = ["BUILTIN", "Installed", "Selection", "installed_plugins"]

BUILTIN = "lightning-rlhf"
"""The distribution name under which the built-in components are offered."""


@dataclass(frozen=True)
class Installed:
    """An installed distribution that has entry points in our group."""

    name: str
    """Normalised."""
    version: str
    metadata: importlib.metadata.Distribution

    @cached_property
    def entry_points(self) -> tuple[importlib.metadata.EntryPoint, ...]:
        """The entry points in our group.

        Raises:
            PluginError: `entry_points.txt` cannot be read.
        """
        try:
            return tuple(self.metadata.entry_points.select(group=GROUP))
        except Exception as error:
            raise PluginError(f"its entry_points.txt must be readable, got {type(error).__name__}: {error}.") from error

    def excluded_by(self) -> str | None:
        """The requirement of this distribution that rules out our version; None if none does."""
        from packaging.requirements import InvalidRequirement, Requirement

        for line in self.metadata.requires or ():
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue  # installers refuse those; it tells nothing about our version
            if normalised(requirement.name) != BUILTIN:
                continue
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and not requirement.specifier.contains(__version__, prereleases=True):
                return str(requirement)
        return None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which plug-ins the environment lets in."""

    allowed: frozenset[str] | None
    denied: frozenset[str]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Selection":
        """What `LIGHTNING_RLHF_LOAD_PLUGINS` and `LIGHTNING_RLHF_DISABLE_PLUGINS` say: names, separated by commas."""
        allowed = environ.get("LIGHTNING_RLHF_LOAD_PLUGINS")
        return cls(
            allowed=None if allowed is None else _names(allowed),
            denied=_names(environ.get("LIGHTNING_RLHF_DISABLE_PLUGINS", "")),
        )

    def refusal(self, name: str) -> str | None:
        """Why the environment keeps a distribution out; None if it does not."""
        if name in self.denied:
            return "LIGHTNING_RLHF_DISABLE_PLUGINS names it"
        if self.allowed is not None and name not in self.allowed:
            return "LIGHTNING_RLHF_LOAD_PLUGINS does not name it"
        return None


def installed_plugins(distributions: Iterable[importlib.metadata.Distribution] | None = None) -> list[Installed]:
    """The installed plug-ins, sorted by name so that every process sees them in one order.

    Args:
        distributions: where to look; None: everything on the import path.
    """
    found: dict[str, Installed] = {}
    for distribution in importlib.metadata.distributions() if distributions is None else distributions:
        # Reading the text first spares the hundred other distributions the parsing of their metadata.
        if f"[{GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name = normalised(distribution.metadata["Name"] or "unnamed")
        if name != BUILTIN and name not in found:  # the first on the path is the one that Python imports
            found[name] = Installed(name, distribution.metadata["Version"] or "unknown", distribution)
    return [found[name] for name in sorted(found)]


def normalised(name: str) -> str:
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(text: str) -> frozenset[str]:
    return frozenset(normalised(name) for name in re.split(r"[,\s]+", text) if name)
