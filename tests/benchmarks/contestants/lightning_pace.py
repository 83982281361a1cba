"""A Lightning Trainer whose epochs are repetitions."""

from abc import ABC, abstractmethod
from typing import Any

import lightning as L

from contestants.counting import Counts


def trainer(spec: dict[str, Any], *callbacks: L.Callback) -> L.Trainer:
    """A plain Trainer on the CPU that logs, saves and shows nothing.

    Args:
        spec: the row's; `parts` cuts what an optimizer step sees into so many batches.
        *callbacks: its own beside those that the module brings.
    """
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        precision=spec["precision"],
        accumulate_grad_batches=spec.get("parts", 1),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


class EpochPace(L.Callback, ABC):
    """Waits before every epoch and reports after it.

    Args:
        pace: what to report to.
        spec: the row's.
        weight: the fact that the loss is a mean over.
    """

    def __init__(self, pace: Any, spec: dict[str, Any], weight: str = "supervised_tokens") -> None:
        self._pace = pace
        self._counts = Counts(weight, flop=spec["flop"])

    @abstractmethod
    def facts_of(self, batch: Any, loss: float) -> dict[str, float]:
        """What a step did, its loss multiplied by the weight."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        num_parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        self._pace.ready(num_parameters=num_parameters)
        if not self._pace.wait():
            self._pace.leave()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._counts.add(self.facts_of(batch, float(outputs["loss"])))
        if trainer.is_last_batch:
            self._pace.next(**self._counts.take())
