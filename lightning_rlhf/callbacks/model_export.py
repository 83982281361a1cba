"""Writes `model/` when training has ended."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rlhf.callbacks.averaged_weights import take_averaged_weights
from lightning_rlhf.callbacks.last_checkpoint import LastCheckpoint
from lightning_rlhf.checkpoints.replacement import numbered
from lightning_rlhf.checkpoints.run_files import require_replaceable
from lightning_rlhf.errors import RunDirectoryError
from lightning_rlhf.files import whole_folder

__all__ = ["ModelExport"]


class ModelExport(Callback):
    """Writes the trained model in transformers' format, with its tokenizer, to `<root>/model`.

    Also where a run is resumed that had been trained to its end, but was cut off before its model was written.

    Args:
        folder: name of the folder in `trainer.default_root_dir`.
    """

    def __init__(self, folder: str = "model") -> None:
        self.folder = folder
        self.instead: Path | None = None
        """A model that was written before, to be put into the folder in place of the one in training."""
        self._exported = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Nothing is exported yet, and nothing of somebody's stands where the model will.

        Raises:
            RunDirectoryError: something does; better now than when all is trained.
        """
        self._exported = False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            require_replaceable(Path(trainer.default_root_dir) / self.folder)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Exports once, unless nothing was trained (`fast_dev_run`) or the run broke off."""
        if trainer.fast_dev_run or trainer.interrupted or trainer.received_sigterm:  # type: ignore[attr-defined]
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.settle(trainer)  # the export takes a while, in which the run may be cut off
        self._export(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Exports where Lightning found nothing left to train."""
        if stage != "fit" or self._exported or not trainer.global_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        pl_module.to(trainer.strategy.root_device)  # from where Lightning has taken it, and processes can talk
        take_averaged_weights(trainer, pl_module)
        self._export(trainer, pl_module)
        pl_module.cpu()

    def _export(self, trainer: L.Trainer, pl_module: Any) -> None:
        path = self._free(Path(trainer.default_root_dir) / self.folder, trainer)
        if self.instead is None:
            pl_module.export(path)
        else:
            if trainer.is_global_zero:
                with whole_folder(path) as folder:
                    shutil.copytree(self.instead, folder, dirs_exist_ok=True)
            trainer.strategy.barrier("model is copied")
        self._exported = True

    @staticmethod
    def _free(path: Path, trainer: L.Trainer) -> Path:
        """The folder, or another where somebody has put something there in the meantime: the model is trained."""
        try:
            require_replaceable(path)
        except RunDirectoryError as error:
            rank_zero_warn(f"{error} The model is in {numbered(path)}.")
            path = numbered(path)
        return Path(trainer.strategy.broadcast(str(path)))
