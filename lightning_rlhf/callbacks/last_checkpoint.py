"""Keeps the newest state of a run in one file."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_rlhf.checkpoints.file_io import BackgroundIO
from lightning_rlhf.errors import StorageError
from lightning_rlhf.files import beside, clear_storage_errors, replace_whole

__all__ = ["LastCheckpoint", "is_step_end"]


class LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` after every epoch and every validation in the middle of one.

    A `ModelCheckpoint` with `save_last` keeps two copies of the weights, and none of what was learned after an epoch's
    last validation.

    A checkpoint lies beside, as `.last.ckpt.new`, until Lightning has logged the numbers of its step or epoch, which it
    does after the hooks in which callbacks save. A run that is killed in between is resumed from the checkpoint before,
    and logs those numbers again; otherwise they would be missing.

    Args:
        dirpath: folder of the file.
        regular: write it at these points; otherwise only when it is asked for.
        find_last: what looks for the checkpoint that `trainer.fit(ckpt_path="last")` means; default: as Lightning does.
    """

    def __init__(
        self, dirpath: Path | str, regular: bool = True, find_last: Callable[[L.Trainer], set[str]] | None = None
    ) -> None:
        super().__init__(dirpath, filename="last", enable_version_counter=False)
        self.put_into(Path(dirpath))
        self.regular = regular
        self._find_last = find_last
        self._written = False
        self._at_epoch_end = False
        self._due = False

    def put_into(self, folder: Path) -> None:
        """The file's folder is another one: only now is it known which all ranks use."""
        self.dirpath = str(folder)
        self.path = folder / "last.ckpt"
        self.best_model_path = str(self.path)
        self._beside = beside(self.path, "new")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """All ranks use rank 0's folder. That it holds a checkpoint is no reason for Lightning's warning."""
        self.put_into(Path(trainer.strategy.broadcast(str(self.dirpath))))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: where the file is follows from the root, and Lightning would warn of a root that was moved."""

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        return super()._find_last_checkpoints(trainer) if self._find_last is None else self._find_last(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Writes the checkpoint beside the last one; on every rank."""
        if trainer.fast_dev_run or trainer.sanity_checking:  # type: ignore[attr-defined]
            return
        self._written = self._due = self._at_epoch_end = False
        self.finish(trainer)
        self._save_checkpoint(trainer, str(self._beside))
        self._written = True

    def settle(self, trainer: L.Trainer) -> None:
        """Puts the checkpoint in the place of the last one: what it stands for is logged."""
        if self._written and trainer.is_global_zero:
            io = trainer.strategy.checkpoint_io
            if isinstance(io, BackgroundIO):
                io.then(self._put_in_place)  # it may not be whole yet
            else:
                self._put_in_place()
        self._written = False

    def finish(self, trainer: L.Trainer) -> None:
        """Waits for what is written in the background.

        Raises:
            StorageError: it could not be.
        """
        io = trainer.strategy.checkpoint_io
        if isinstance(io, BackgroundIO):
            io.finish()

    def _put_in_place(self) -> None:
        with clear_storage_errors(self.path):
            replace_whole(self.path)

    # The points to save at

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where a validation ended in the middle of an accumulation window, now that its step is done."""
        if self._due and is_step_end(trainer, batch_idx):
            self.save(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The step before is logged."""
        self.settle(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The step before is logged."""
        self.settle(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves, unless the epoch ends here and saves itself, or gradients are being accumulated."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if not self.regular or trainer.sanity_checking or progress.is_last_batch:
            return
        if is_step_end(trainer, progress.current.ready - 1):
            self.save(trainer)
            self.settle(trainer)
        else:
            self._due = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves; also in the place of what was asked for in the epoch's last step."""
        if self.regular or self._written:
            self.save(trainer)
            self._at_epoch_end = self._written

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The epoch before is logged."""
        self.settle(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last epoch is logged."""
        self.settle(trainer)
        self.finish(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the last checkpoint that is whole and logged."""
        with suppress(StorageError):  # the exception that is here comes first
            self.finish(trainer)
        progress: Any = trainer.fit_loop.epoch_progress.current
        if self._at_epoch_end and progress.completed == progress.processed:  # counted once the epoch is logged
            self.settle(trainer)
        elif trainer.is_global_zero:
            shutil.rmtree(self._beside, ignore_errors=True)
            with suppress(OSError):
                self._beside.unlink()
        self._written = False


def is_step_end(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer steps at the end of this batch, so that no gradients are left over."""
    return trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
