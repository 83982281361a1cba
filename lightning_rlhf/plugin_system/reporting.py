"""How a fault of a plug-in is told: once, by one process; or raised, where the user asked for that."""

import os
import sys
import warnings

from lightning_rlhf.errors import PluginError
from lightning_rlhf.terminal import escaped

__all__ = ["PluginWarning", "Reporter"]

_OTHER_RANKS = ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class PluginWarning(UserWarning):
    """A plug-in, or a component of it, was set aside."""


class Reporter:
    """Reports faults of plug-ins.

    Args:
        strict: raise instead of warn.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict

    def report(self, message: str) -> None:
        """Warn about a fault, on rank 0 only.

        Raises:
            PluginError: in strict mode.
        """
        if self.strict:
            raise PluginError(message)
        if _is_rank_zero() and not _is_worker():
            warnings.warn(escaped(message), PluginWarning, stacklevel=2)


def _is_rank_zero() -> bool:
    """Whether this is the first process, told by the launchers' variables: torch is not loaded here."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in _OTHER_RANKS)


def _is_worker() -> bool:
    """Whether this is a child of multiprocessing, such as a data-loader worker: its parent has warned."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None
