"""TRL's RewardTrainer: every pair of a ranking is a row of its own."""

from typing import Any

import material
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from contestants.counting import Counts
from contestants.trl_pace import StepPace, common_settings


def run(spec: dict[str, Any], pace: Any) -> None:
    counts = Counts("comparisons", flop=spec["flop"])
    pairs = [pair for row in material.read_rows(spec["data"]) for pair in material.comparisons(row)]
    model = AutoModelForSequenceClassification.from_pretrained(spec["model"], num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.copy_(torch.load(spec["head"], weights_only=True))
    per_step = spec["batch_size"] * spec["candidates"] * (spec["candidates"] - 1) // 2
    settings = common_settings(spec, per_step)
    trainer = CountingTrainer(
        model,
        args=RewardConfig(**settings, max_length=spec["max_length"]),
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
    )
    trainer.counts = counts
    trainer.add_callback(StepPace(pace, counts))
    trainer.train()


class CountingTrainer(RewardTrainer):
    """Looks at each batch on its way."""

    counts: Counts

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        mask = inputs["attention_mask"]
        loss = super().training_step(model, inputs, *args, **kwargs)
        comparisons = len(mask) // 2
        self.counts.add(
            {
                "comparisons": comparisons,
                "tokens": int(mask.sum()),
                "positions": mask.numel(),
                # the trainer has divided it by the number of micro-batches
                "loss": float(loss) * comparisons * self.args.gradient_accumulation_steps,
            }
        )
        return loss
