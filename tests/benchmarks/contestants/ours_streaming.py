"""Ours: fine-tuning on a file of many rows, a few steps of it: what counts is to read and to tokenize them."""

import time
from typing import Any

import lightning as L

from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.data import DemonstrationData
from lightning_rlhf.modules import SFTModule


def run(spec: dict[str, Any], pace: Any) -> None:
    _fit(spec, spec["warm_up"], 0.0)  # what is imported and made once is there before anything is measured
    pace.ready()
    while pace.wait():
        started = time.process_time()
        stages = _fit(spec, spec["data"], spec["val_fraction"])
        pace.done(rows=spec["rows"], tokenizing_s=stages.began - started, steps_s=stages.ended - stages.began)


class Stages(L.Callback):
    """CPU seconds at the first training step, which comes after all rows are stored, and after the last."""

    began = ended = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.process_time()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = time.process_time()


def _fit(spec: dict[str, Any], file: str, val_fraction: float) -> Stages:
    L.seed_everything(0)
    module = SFTModule(spec["model"], learning_rate=1e-6, lr_schedule="constant")
    data = DemonstrationData(FileSource(file, val_fraction=val_fraction), batch_size=16)
    stages = Stages()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=spec["steps"],
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[stages],
    )
    trainer.fit(module, data)
    return stages
