"""Ours: PPOModule, PromptData and a Lightning Trainer."""

from typing import Any

import lightning as L

from contestants.lightning_pace import trainer
from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.builtins.templates import PlainTemplate
from lightning_rlhf.callbacks import RolloutCallback
from lightning_rlhf.data import PromptData
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.rollout import CollectedRollout


def run(spec: dict[str, Any], pace: Any) -> None:
    L.seed_everything(0)
    module = PPOModule(
        spec["policy"],
        spec["scorer"],
        adapter=LoRA(rank=spec["rank"]) if spec["rank"] else None,
        learning_rate=spec["learning_rate"],
        lr_schedule="constant",
        rollout_size=spec["episodes"],
        max_response_length=spec["response_tokens"],
        minibatch_size=spec["minibatch_size"],
        num_epochs=spec["num_epochs"],
        kl_coef=spec["kl_coef"],
    )
    template = PlainTemplate()
    if spec["stop"]:
        template.stop = (spec["stop"],)
    data = PromptData(FileSource(spec["prompts"]), template, batch_size=spec["episodes"])
    trainer(spec, IterationPace(pace, spec)).fit(module, data)


class IterationPace(RolloutCallback):
    """Waits before every iteration and reports after it.

    Args:
        pace: what to report to.
        spec: the row's.
    """

    def __init__(self, pace: Any, spec: dict[str, Any]) -> None:
        self._pace = pace
        self._fixed = {"flop": spec["flop"]} if "flop" in spec else {}
        self._facts: dict[str, Any] = {}

    def on_rollout_collected(
        self, trainer: L.Trainer, pl_module: Any, collected: CollectedRollout, iteration: int
    ) -> None:
        rollout = collected.rollout
        self._facts = {
            "episodes": len(rollout.response_ids),
            "prompt_tokens": int(rollout.prompt_mask.sum()),
            "response_tokens": int(rollout.completion_mask.sum()),
        }

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._facts:
            logged = trainer.callback_metrics
            self._pace.next(
                **self._facts,
                **self._fixed,
                score=float(logged["objective/scores"]),
                kl=float(logged["objective/kl"]),
                value_loss=float(logged["loss/value"]),
            )
            return
        self._pace.ready(num_parameters=sum(parameter.numel() for parameter in pl_module.parameters()))
        if not self._pace.wait():
            self._pace.leave()
