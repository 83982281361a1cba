"""Ours: RewardModule, RankingData and a Lightning Trainer."""

from typing import Any

import lightning as L
import torch

from contestants.lightning_pace import EpochPace, trainer
from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.data import RankingData
from lightning_rlhf.modules import RewardModule


def run(spec: dict[str, Any], pace: Any) -> None:
    L.seed_everything(0)
    module = RewardModule(spec["model"], learning_rate=spec["learning_rate"], lr_schedule="constant")
    with torch.no_grad():
        module.model.head.weight.copy_(torch.load(spec["head"], weights_only=True))
    batch_size = spec["batch_size"] // spec.get("parts", 1)
    data = RankingData(FileSource(spec["data"]), batch_size=batch_size, max_length=spec["max_length"])
    trainer(spec, RewardPace(pace, spec, "comparisons")).fit(module, data)


class RewardPace(EpochPace):
    """Counts what a batch holds."""

    def facts_of(self, batch: Any, loss: float) -> dict[str, float]:
        mask = batch.candidate_mask
        better = (batch.ranks[:, :, None] < batch.ranks[:, None, :]) & mask[:, :, None] & mask[:, None, :]
        comparisons = int(better.sum())
        return {
            "comparisons": comparisons,
            "tokens": int(batch.tokens.attention_mask.sum()),
            "positions": batch.tokens.input_ids.numel(),
            # the prompts of a step are the denominator that its batches share; all have equally many comparisons
            "loss": loss * int(batch.num_prompts) * comparisons / len(mask),
        }
