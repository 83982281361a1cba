"""Which plug-ins took part: the comparison between the processes of one run."""

from collections.abc import Mapping, Sequence

from lightning_rlhf.errors import PluginError

__all__ = ["check_same_plugins"]


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
