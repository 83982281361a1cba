"""`LIGHTNING_RLHF_TRACE_PLUGINS=1`: what plug-ins are asked, and what they answer, on standard error."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from lightning_rlhf.errors import PluginError
from lightning_rlhf.terminal import escaped

__all__ = ["Tracer"]

Result = TypeVar("Result")


class Tracer:
    """Prints a line for each call of a plug-in's code, or nothing at all.

    Args:
        enabled: print.
    """

    def __init__(self, *, enabled: bool = False) -> None:
        self.enabled = enabled

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Tracer":
        """What `LIGHTNING_RLHF_TRACE_PLUGINS` says."""
        return cls(enabled=environ.get("LIGHTNING_RLHF_TRACE_PLUGINS", "") not in ("", "0"))

    def call(self, who: str, doing: str, action: Callable[[], Result]) -> Result:
        """The result of the action, which is told with the time that it took.

        Args:
            who: the plug-in, with its version.
            doing: what the action does.
            action: runs the plug-in's code.

        Raises:
            PluginError: as the action.
        """
        if not self.enabled:
            return action()
        start = time.perf_counter()
        try:
            result = action()
        except PluginError as error:
            self.say(who, f"{doing} failed after {_milliseconds(start)}: {error}")
            raise
        self.say(who, f"{doing} -> {result!r} in {_milliseconds(start)}")
        return result

    def say(self, who: str, text: str) -> None:
        """One line, from every process: where they differ, that is what one looks for."""
        if self.enabled:
            rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK"))
            place = "" if rank is None else f" rank {rank}:"
            print(escaped(f"lightning-rlhf: trace:{place} {who}: {text}"), file=sys.stderr)


def _milliseconds(start: float) -> str:
    return f"{1000 * (time.perf_counter() - start):.1f} ms"
