"""TRL's SFTTrainer with its own loader, tokenization and packing."""

from typing import Any

import material
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2LMHeadModel
from trl import SFTConfig, SFTTrainer

from contestants.counting import Counts
from contestants.trl_pace import StepPace, common_settings


def run(spec: dict[str, Any], pace: Any) -> None:
    counts = Counts("supervised_tokens", flop=spec["flop"])
    rows = [{"prompt": row["prompt"], "completion": row["response"]} for row in material.read_rows(spec["data"])]
    trainer = CountingTrainer(
        GPT2LMHeadModel.from_pretrained(spec["model"], dtype=torch.float32),
        args=SFTConfig(
            **common_settings(spec, spec["batch_size"]), max_length=spec["max_length"], packing=spec["packing"]
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
    )
    trainer.counts = counts
    trainer.add_callback(StepPace(pace, counts))
    trainer.train()


class CountingTrainer(SFTTrainer):
    """Looks at each batch on its way."""

    counts: Counts

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        supervised = int((inputs["labels"][:, 1:] != -100).sum())
        mask = inputs.get("attention_mask")
        positions = inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.counts.add(
            {
                "supervised_tokens": supervised,
                "tokens": positions if mask is None else int(mask.sum()),
                "positions": positions,
                "loss": float(loss) * supervised,
            }
        )
        return loss
