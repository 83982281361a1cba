"""Writes `model/` when training has ended."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

__all__ = ["ModelExport"]


class ModelExport(Callback):
    """Writes the trained model in transformers' format, with its tokenizer, to `<root>/model`.

    Args:
        folder: name of the folder in `trainer.default_root_dir`.
    """

    def __init__(self, folder: str = "model") -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Exports once, unless nothing was trained (`fast_dev_run`) or the run broke off."""
        if trainer.fast_dev_run or trainer.interrupted or trainer.received_sigterm:  # type: ignore[attr-defined]
            return
        pl_module.export(Path(trainer.default_root_dir) / self.folder)
