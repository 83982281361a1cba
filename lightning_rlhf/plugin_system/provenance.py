"""Which plug-ins took part: what a run records, and the comparison with another process or an earlier run."""

from collections.abc import Iterable, Mapping, Sequence

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.discovery import BUILTIN
from lightning_rlhf.plugin_system.hookspecs import BASES
from lightning_rlhf.plugin_system.manager import Manager

__all__ = ["check_same_plugins", "components_among", "plugin_differences", "remember_name", "versions_in_use"]

_REGISTRY = "lightning_rlhf.registry."
_MADE_AS = "_made_as"


def versions_in_use(manager: Manager, components: Iterable[object]) -> dict[str, str]:
    """The versions of this library and of the plug-ins that the components come from, by distribution.

    A plug-in that is installed and not used changes no run, and is left out. What a plug-in owns is told by its short
    names, and by the top-level packages of its targets: components that a config names by class path count as well.

    Args:
        manager: knows who offers what.
        components: objects that a run was given; a string is what `base` takes, which may be a model's short name.
    """
    components = list(components)
    classes = {cls for component in components for cls in type(component).__mro__}
    modules = {f"{cls.__module__}.{cls.__qualname__}" for cls in classes}
    names = {name.removeprefix(_REGISTRY) for name in modules if name.startswith(_REGISTRY)}
    names |= {f"model.{component}" for component in components if isinstance(component, str)}
    names |= {made_as for component in components if (made_as := getattr(component, _MADE_AS, None)) is not None}
    packages = {name.partition(".")[0] for name in modules} - {__package__.partition(".")[0]}
    used = {
        offer.distribution
        for record in manager.plugins
        for offer in record.components
        if f"{offer.kind}.{offer.name}" in names or offer.class_path.partition(".")[0] in packages
    }
    return {name: version for name, version in manager.versions().items() if name == BUILTIN or name in used}


def remember_name(component: object, kind: str, name: str) -> None:
    """Note the short name of a component that a function made: its class may be anybody's."""
    try:
        object.__setattr__(component, _MADE_AS, f"{kind}.{name}")
    except AttributeError:  # of a class with slots: it counts by its own module
        return


def components_among(values: object) -> list[object]:
    """The components in arguments: alone, or in lists and mappings."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [component for value in values for component in components_among(value)]
    return [values] if isinstance(values, tuple(BASES.values())) else []


def plugin_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What changed between two records, one `name before -> now` each.

    Example:
        >>> plugin_differences({"sentiment": "1.0", "judge": "1"}, {"sentiment": "1.1", "judge": "1"})
        ['sentiment 1.0 -> 1.1']
    """
    return [
        f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def check_same_plugins(versions: Sequence[Mapping[str, str]]) -> None:
    """Check that every process has the plug-ins of the first.

    Args:
        versions: `Manager.versions()` of each rank, in order.

    Raises:
        PluginError: they differ; the message holds the difference.

    Example:
        >>> check_same_plugins([{"sentiment": "1.0"}, {"sentiment": "1.0"}])
    """
    differences = [
        f"rank {rank} has {name} {there.get(name, 'not at all')}, rank 0 {versions[0].get(name, 'not at all')}"
        for rank, there in enumerate(versions)
        for name in sorted(there.keys() | versions[0].keys())
        if there.get(name) != versions[0].get(name)
    ]
    if differences:
        raise PluginError(f"every rank must have the same plug-ins, got a difference: {'; '.join(differences)}.")
