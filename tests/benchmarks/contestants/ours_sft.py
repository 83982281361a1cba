"""Ours: SFTModule, DemonstrationData and a Lightning Trainer."""

from typing import Any

import lightning as L

from contestants.lightning_pace import EpochPace, trainer
from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.data import DemonstrationData
from lightning_rlhf.modules import SFTModule


def run(spec: dict[str, Any], pace: Any) -> None:
    L.seed_everything(0)
    module = SFTModule(spec["model"], learning_rate=spec["learning_rate"], lr_schedule="constant")
    data = DemonstrationData(
        FileSource(spec["data"]),
        batch_size=spec["batch_size"] // spec.get("parts", 1),
        max_length=spec["max_length"],
        packing=spec["packing"],
    )
    trainer(spec, SFTPace(pace, spec)).fit(module, data)


class SFTPace(EpochPace):
    """Counts what a batch holds."""

    def facts_of(self, batch: Any, loss: float) -> dict[str, float]:
        supervised = int((batch.labels[:, 1:] != -100).sum())
        return {
            "supervised_tokens": supervised,
            "tokens": int(batch.tokens.attention_mask.sum()),
            "positions": batch.tokens.input_ids.numel(),
            "loss": loss * int(batch.num_targets),  # which a step's batches share as denominator
        }
