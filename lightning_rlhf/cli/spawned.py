"""Strategies whose processes are all children of this one (`ddp_spawn`, `ddp_fork`): what ends them ends it alike."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_rlhf import errors
from lightning_rlhf.errors import LightningRLHFError
from lightning_rlhf.files import storage_fault

__all__ = ["children_ends"]

_LAST = re.compile(r"^(?P<name>[\w.]+(?:Error|Exception|Interrupt))(?:: (?P<text>.*))?\Z", re.MULTILINE | re.DOTALL)
"""The last paragraph of a traceback."""
_NUMBER = re.compile(r"\[Errno (\d+)\]")


@contextmanager
def children_ends(trainer: Trainer) -> Iterator[None]:
    """Inside, SIGTERM reaches the children, and what ended one of them is raised here as what it was.

    Of other strategies nothing changes.

    Args:
        trainer: about to run.

    Raises:
        LightningRLHFError: what a child raised, if it was a user's mistake.
        SIGTERMException: the children ended because of SIGTERM.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _MultiProcessingLauncher):
        yield
        return
    before, parent = None, os.getpid()

    def forward(number: int, frame: FrameType | None) -> None:
        if os.getpid() == parent and launcher.procs:
            launcher.kill(number)
        else:  # a child that was forked and has no handler of its own yet
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    except ProcessRaisedException as error:
        if known := _as_it_was(str(error)):
            raise known from error
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _as_it_was(text: str) -> BaseException | None:
    """The exception that a child's traceback ends with, where it needs no traceback; else None."""
    last = _LAST.search(text.rstrip())
    if last is None:
        return None
    name, message = last["name"].rpartition(".")[2], (last["text"] or "").strip()
    if name in ("SIGTERMException", "KeyboardInterrupt"):
        return SIGTERMException() if name == "SIGTERMException" else KeyboardInterrupt()
    kind = getattr(errors, name, None)
    if last["name"].startswith(errors.__name__) and isinstance(kind, type) and issubclass(kind, LightningRLHFError):
        known = kind.__new__(kind)
        known.args = (message,)  # a subclass may take other arguments, of which the message was made
        return known
    if number := _NUMBER.search(message):
        return storage_fault(OSError(int(number[1]), message))
    return None
