"""Ends a run at SIGTERM as whoever sends it expects: the step is finished, the state saved."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rlhf.callbacks.last_checkpoint import LastCheckpoint, is_step_end

__all__ = ["TerminationSignals"]


class TerminationSignals(Callback):
    """At SIGTERM finishes the optimizer step, saves `last.ckpt` and ends the run; a validation is broken off.

    Lightning's own handler ends the run after a batch, also in the middle of an accumulation window, and saves nothing.
    SLURM's requeue signal, whose handler in Lightning saves wherever the program happens to be, waits for the end of
    the step as well. On several ranks all of them stop at the same step, whichever of them got the signal.

    Args:
        last: what saves.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self._last = last
        self._terminate = False
        self._requeue = False
        self._requeue_number: int | None = None
        self._requeue_handler: Callable[[int, FrameType | None], Any] | None = None
        self._ends = False
        self._has_settled = False

    # Hearing of it

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over from Lightning's handlers."""
        self._take_over(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over from Lightning's handlers, and heeds what they heard."""
        self._take_over(trainer)

    def _take_over(self, trainer: L.Trainer) -> None:
        self._process, self._single = os.getpid(), trainer.world_size == 1
        self._terminate |= trainer.received_sigterm
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self._on_terminate)
        environment = trainer._accelerator_connector.cluster_environment
        if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
            return
        number = environment.requeue_signal
        handler = None if number is None else signal.getsignal(number)
        if number is not None and callable(handler) and handler != self._on_requeue:
            self._requeue_number, self._requeue_handler = number, handler
            signal.signal(number, self._on_requeue)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # one that was forked from ours has nothing to finish
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._terminate = True
        if self._has_settled and self._single:  # a rollout is being collected, which may take long, and nothing is lost
            raise SIGTERMException

    def _on_requeue(self, number: int, frame: FrameType | None) -> None:
        self._requeue = True

    def _agree(self, trainer: L.Trainer) -> None:
        """What one rank heard, all ranks heed at the same point."""
        if trainer.world_size > 1:
            heard = torch.tensor(
                [self._terminate, self._requeue], dtype=torch.int64, device=trainer.strategy.root_device
            )
            self._terminate, self._requeue = (trainer.strategy.reduce(heard, reduce_op="sum") > 0).tolist()

    # Heeding it

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the run if it was the epoch's last step that was finished."""
        self._stop_now(trainer)
        self._has_settled = self._last.regular

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends the run now that the last step is logged."""
        self._has_settled = False
        self._stop_now(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves at the end of a step."""
        if not is_step_end(trainer, batch_idx):
            return
        self._agree(trainer)
        if self._requeue and self._requeue_number is not None and self._requeue_handler is not None:
            self._requeue_handler(self._requeue_number, None)
            self._last.finish(trainer)  # the job may be ended at any moment now
        self._requeue = False
        if self._terminate:
            self._last.save(trainer)
            self._ends = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the run instead, where the step before was saved."""
        self._stop_now(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Saves and breaks off: a resumed run validates from the start."""
        if trainer.sanity_checking:
            self._ends = self._terminate and self._single
        else:
            self._agree(trainer)
            if self._terminate:
                self._last.save(trainer)
                self._ends = True
        self._stop_now(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the run before its model is written; resumed, it does no more than that."""
        self._has_settled = False
        self._stop_now(trainer)

    def _stop_now(self, trainer: L.Trainer) -> None:
        if self._ends:
            self._last.settle(trainer)
            raise SIGTERMException
