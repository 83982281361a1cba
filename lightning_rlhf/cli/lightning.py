"""`lightning-rlhf fit`, `validate`, `test` and `predict`: how the process begins and ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rlhf import registry
from lightning_rlhf.cli.lightning_cli import RLHFCLI
from lightning_rlhf.cli.quiet import without_noise
from lightning_rlhf.files import storage_fault

__all__ = ["run", "trainer_surroundings"]

_TERMINATED = 128 + signal.SIGTERM
"""What a shell gives for a process that SIGTERM ended."""


def run(argv: Sequence[str] | None = None) -> int | None:
    """Run a trainer command.

    Args:
        argv: the words after the program's name, the command first; None: those of this process.

    Returns:
        The exit status: 0, or 143 after SIGTERM.

    Raises:
        LightningRLHFError: the user's mistake; its message is meant to be shown without a traceback.
        KeyboardInterrupt: the user stopped the run, and Lightning has shut it down.
    """
    here = Path.cwd()
    try:
        with trainer_surroundings():
            RLHFCLI(list(sys.argv[1:] if argv is None else argv), here)
    except SIGTERMException:
        return _TERMINATED
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ended
        if ended.code:
            raise
    except Exception as error:
        if fault := storage_fault(error):
            raise fault from error
        raise
    return 0


@contextmanager
def trainer_surroundings() -> Iterator[None]:
    """Inside, a config can be parsed and built: classes beside it are importable, components have short names."""
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109 - an entry of sys.path is a string
        # at the end: a file beside the config must not stand in for an installed package of the same name
        sys.path.append(os.getcwd())  # noqa: PTH109
    with without_noise(), _interrupt_handler_kept():
        registry.publish()
        yield


@contextmanager
def _interrupt_handler_kept() -> Iterator[None]:
    """Lightning ignores further interrupts once it is shutting down; a process that goes on must not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if before in (signal.default_int_handler, signal.SIG_IGN, None):  # else the process ends: main says how
            signal.signal(signal.SIGINT, before)
        raise
    except BaseException:
        signal.signal(signal.SIGINT, before)
        raise
    signal.signal(signal.SIGINT, before)
