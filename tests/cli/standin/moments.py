"""Callbacks that do to a run what happens to runs, at a moment that is chosen."""

import os
import resource
import threading
import time
from typing import Any

from lightning.pytorch.callbacks import Callback

_HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_save_checkpoint",
)


class Signal(Callback):
    """Sends this process a signal.

    Args:
        hook: in which hook.
        count: at its how manieth call, from 1.
        number: of the signal.
        delay_s: seconds afterwards, from another thread.
    """

    def __init__(self, hook: str, count: int = 1, number: int = 9, delay_s: float = 0.0) -> None:
        self.hook, self.left, self.number, self.delay_s = hook, count, number, delay_s

    def _called(self, hook: str, trainer: Any) -> None:
        if hook != self.hook or trainer.sanity_checking:
            return
        self.left -= 1
        if self.left == 0 and self.delay_s:
            threading.Thread(target=self._later, daemon=True).start()
        elif self.left == 0:
            os.kill(os.getpid(), self.number)

    def _later(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), self.number)


def _add(hook: str) -> None:
    def called(self: Signal, trainer: Any, *args: Any, **kwargs: Any) -> None:
        self._called(hook, trainer)

    setattr(Signal, hook, called)


for _hook in _HOOKS:
    _add(_hook)


class SmallDisk(Callback):
    """From an epoch on no file may be longer than this: what a full disk does, without filling one.

    Args:
        epoch: the first epoch with the limit, from 0.
        size: bytes.
    """

    def __init__(self, epoch: int = 0, size: int = 1000) -> None:
        self.epoch, self.size = epoch, size

    def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch >= self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
