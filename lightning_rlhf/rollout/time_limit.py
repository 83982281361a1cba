"""A limit to how long somebody else's code may take, in the thread that it expects to run in."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lightning_rlhf.terminal import escaped

__all__ = ["TimeLimitError", "time_limit"]

_AGAIN_S = 5.0
"""Seconds until code that swallowed the interruption is interrupted again."""
_GRACE_S = 60.0
"""Seconds until a process that does not even come to be interrupted is ended."""
_EXIT_CODE = 2


class TimeLimitError(Exception):
    """The code took longer than it may."""


class _Interruption(BaseException):
    """Not an `Exception`: code that tries again after every error must not try again after this one."""


@contextmanager
def time_limit(seconds: float | None, describe: Callable[[], str]) -> Iterator[None]:
    """Interrupts what is inside when it takes too long.

    A thread watches the main thread, in which the code runs as ever, and sends it a signal: that ends loops, sleeping
    and waiting for a network or another process. Code that never comes back from a library's C function cannot be
    interrupted by anything; after a minute of grace the process is ended then, with the message on stderr. Outside the
    main thread, and where the system knows no signals to threads, there is no limit.

    Args:
        seconds: the limit; None: there is none.
        describe: the message for a process that has to be ended.

    Raises:
        TimeLimitError: it took too long; says where it was.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or not hasattr(signal, "pthread_kill"):
        yield
        return
    watch = _Watch(seconds, describe)
    try:
        watch.begin()
        try:
            yield
        finally:
            watch.over.set()
    except _Interruption as interruption:
        frames = traceback.extract_tb(interruption.__traceback__)[:-1]  # the last one is the signal's handler
        raise TimeLimitError(f"it was in {frames[-1].filename}:{frames[-1].lineno}") from None
    finally:
        watch.end()


class _Watch:
    """Looks after one call."""

    def __init__(self, seconds: float, describe: Callable[[], str]) -> None:
        self.over = threading.Event()
        self._seconds = seconds
        self._describe = describe
        self._is_late = False
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="time limit", daemon=True)
        self._before = signal.getsignal(signal.SIGALRM)

    def begin(self) -> None:
        signal.signal(signal.SIGALRM, self._on_alarm)
        self._thread.start()

    def end(self) -> None:
        self.over.set()
        self._thread.join()  # before the handler goes: without one the signal would end the process
        signal.signal(signal.SIGALRM, self._before)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._is_late and not self.over.is_set():
            raise _Interruption
        if not self._is_late and callable(self._before):
            self._before(number, frame)  # somebody else's alarm

    def _watch(self) -> None:
        if self.over.wait(self._seconds):
            return
        self._is_late = True
        for _ in range(round(_GRACE_S / _AGAIN_S)):
            signal.pthread_kill(self._main, signal.SIGALRM)
            if self.over.wait(_AGAIN_S):
                return
        print(
            escaped(f"lightning-rlhf: error: {self._describe()} It cannot be interrupted."), file=sys.stderr, flush=True
        )
        os._exit(_EXIT_CODE)
