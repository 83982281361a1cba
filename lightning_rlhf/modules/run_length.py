"""The optimizer steps that a run still has to make, and the accumulation of each of its epochs."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler

__all__ = ["accumulation", "set_accumulation", "steps_left", "steps_taken"]


def accumulation(trainer: L.Trainer, epoch: int) -> int:
    """Batches per optimizer step in an epoch: as a `GradientAccumulationScheduler` says, else the Trainer."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return callback.get_accumulate_grad_batches(epoch)
    return trainer.accumulate_grad_batches


def set_accumulation(trainer: L.Trainer) -> None:
    """Has a run that is resumed in the middle of an epoch accumulate as it did: Lightning says it at an epoch's start.

    Args:
        trainer: at the start of its training.
    """
    trainer.accumulate_grad_batches = accumulation(trainer, trainer.current_epoch)


def steps_taken(trainer: L.Trainer) -> int:
    """Steps behind the run as its schedule counts them, which begins anew when a Trainer fits a second time."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return int(getattr(schedulers[0], "last_epoch", 0)) if schedulers else trainer.global_step


def steps_left(trainer: L.Trainer) -> float:
    """Optimizer steps from here to the run's end, as far as `max_epochs` and `max_steps` say; inf without either.

    Epochs may differ in their accumulation, and what is done of a resumed run may have had other batches than what is
    left: `Trainer.estimated_stepping_batches` takes all epochs to be as the present one.

    Args:
        trainer: at the start of its training, its checkpoint restored and its loader made.
    """
    by_steps = math.inf if trainer.max_steps == -1 else max(trainer.max_steps - trainer.global_step, 0)
    if trainer.max_epochs in (None, -1) or trainer.num_training_batches == math.inf:
        return by_steps
    first, num_batches = trainer.current_epoch, int(trainer.num_training_batches)
    windows = {epoch: accumulation(trainer, epoch) for epoch in range(first, trainer.max_epochs)}
    by_epochs = sum(math.ceil(num_batches / window) for window in windows.values())
    if (done := _batches_done(trainer)) is not None:
        window = windows[first]
        by_epochs -= done // window if done < num_batches else math.ceil(num_batches / window)
    return min(by_epochs, by_steps)


def _batches_done(trainer: L.Trainer) -> int | None:
    """Batches of the current epoch that a resumed run has behind it; None: it begins an epoch."""
    epoch: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return None if epoch.started == epoch.processed else int(batches.processed)
