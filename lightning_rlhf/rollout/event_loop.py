"""An event loop in a thread of its own, for reward functions that are coroutines."""

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

from lightning_rlhf.rollout.time_limit import TimeLimitError

__all__ = ["Raised", "close_all", "run_together"]

_GRACE_S = 5.0
"""Seconds beyond the limit after which a coroutine that blocks the loop is given up."""

_loop: asyncio.AbstractEventLoop | None = None
_owner = 0


class Raised:
    """The error that an awaitable ended with, in the place of its result.

    Args:
        error: the error.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


def run_together(awaitables: Sequence[Awaitable[Any]], timeout_s: float | None) -> list[Any]:
    """Awaits all of them side by side.

    One loop serves all calls of a process, so that the connections of a client that a reward function keeps stay open
    from one rollout to the next. It runs beside the main thread: a notebook has a loop of its own there.

    Args:
        awaitables: what to await.
        timeout_s: seconds that each may take; None sets no limit.

    Returns:
        Their results in order; a `Raised` where one raised or took too long.
    """
    if not awaitables:
        return []
    future = asyncio.run_coroutine_threadsafe(_gathered(awaitables, timeout_s), _running_loop())
    try:
        return future.result(None if timeout_s is None else timeout_s + _GRACE_S)
    except TimeoutError:  # a coroutine that never awaits holds the loop: the next call gets a fresh one
        _forget_loop()
        return [Raised(TimeLimitError("it blocks the event loop: await what takes long")) for _ in awaitables]
    except BaseException:  # Ctrl-C, or a signal that ends the run
        future.cancel()
        raise


def close_all(awaitables: Sequence[Awaitable[Any]]) -> None:
    """Lets go of coroutines that nobody will await."""
    for awaitable in awaitables:
        if inspect.iscoroutine(awaitable):
            awaitable.close()


async def _gathered(awaitables: Sequence[Awaitable[Any]], timeout_s: float | None) -> list[Any]:
    return await asyncio.gather(*(_outcome(awaitable, timeout_s) for awaitable in awaitables))


async def _outcome(awaitable: Awaitable[Any], timeout_s: float | None) -> Any:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await awaitable
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # SystemExit, too: it would end the loop and not the process
        return Raised(TimeLimitError("it was still being awaited") if limit.expired() else error)


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _owner
    if _loop is None or _owner != os.getpid():  # a forked process has the loop and not its thread
        _loop, _owner = asyncio.new_event_loop(), os.getpid()
        threading.Thread(target=_loop.run_forever, name="reward functions", daemon=True).start()
    return _loop


def _forget_loop() -> None:
    global _loop
    _loop = None
