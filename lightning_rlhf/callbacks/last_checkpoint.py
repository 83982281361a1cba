"""Keeps the newest state of a run in one file."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["LastCheckpoint"]


class LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` after every epoch and every validation in the middle of one.

    A `ModelCheckpoint` with `save_last` keeps two copies of the weights, and none of what was learned after an epoch's
    last validation.

    Args:
        dirpath: folder of the file.
    """

    def __init__(self, dirpath: Path | str) -> None:
        super().__init__(dirpath, filename="last", enable_version_counter=False)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: epochs and validations are the points to save at."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves, unless the epoch ends here and saves itself."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
