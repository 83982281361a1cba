"""What a piece of work allocates and frees, event by event, and how that grows with the size of the work."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.profiler import profile

__all__ = ["Trace", "recorded", "scaled"]

_EVENT = "[memory]"


@dataclass(frozen=True, slots=True)
class Trace:
    """The allocations of a piece of work in their order.

    Args:
        sizes: `(events,)`, bytes: above 0 where memory is taken, below where it is given back.
    """

    sizes: NDArray[np.float64]

    @property
    def live(self) -> NDArray[np.float64]:
        """`(events + 1,)`: bytes in use, beginning with none."""
        return np.concatenate([[0.0], np.cumsum(self.sizes)])

    @property
    def peak(self) -> float:
        """The most that was in use."""
        return float(self.live.max())


def recorded(work: Callable[[], object], device: torch.device) -> Trace:
    """Does the work and writes down what torch's allocator of the device is asked for, inside of kernels as well.

    What was allocated before is not in the trace, its freeing neither.

    Args:
        work: what it returns is dropped before the recording ends.
        device: whose memory is meant.
    """
    with _native_messages_dropped(), _no_collection(), profile(profile_memory=True) as profiler:
        work()
    results = profiler.kineto_results
    assert results is not None
    kind = torch.device(device).type.upper()
    events = [event for event in results.events() if event.name() == _EVENT and event.device_type().name == kind]
    events.sort(key=lambda event: event.start_ns())
    return Trace(np.array([event.nbytes() for event in events], dtype=np.float64))


def scaled(traces: Sequence[Trace], sizes: Sequence[Sequence[float]], size: Sequence[float]) -> Trace:
    """The trace of work of another size, from traces of small work: every event is affine in the size.

    Where the traces do not have the same events, as where a kernel is chosen by size, their peaks alone are compared.

    Args:
        traces: as many as a size has numbers, and one more.
        sizes: of the work of each trace, such as rows and tokens in the loss.
        size: of the work that is asked for.
    """
    known = np.column_stack([np.ones(len(traces)), np.asarray(sizes, dtype=np.float64)])
    weights = np.linalg.solve(known.T, np.array([1.0, *size]))
    same = len({len(trace.sizes) for trace in traces}) == 1
    events = np.stack([trace.sizes if same else np.array([trace.peak]) for trace in traces])
    return Trace(weights @ events)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage of an earlier recording, collected in this one, would be given back in the middle of the work."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _native_messages_dropped() -> Iterator[None]:
    """The profiler's library writes to the process's stderr when it begins and ends, past Python's."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a file descriptor is what is needed
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
