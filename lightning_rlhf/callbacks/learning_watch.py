"""Says when nothing is learned, and lets no model be written of a run that learned nothing at all."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.tensor import DTensor

from lightning_rlhf.callbacks.rollout_callback import RolloutCallback
from lightning_rlhf.errors import DataError
from lightning_rlhf.rollout import CollectedRollout

__all__ = ["LearningWatch"]


class LearningWatch(RolloutCallback):
    """Warns of every epoch in which no gradient reached the weights that are exported, and of rollouts of one score.

    Gradients are looked at until one is there, so that it costs an epoch no more than its first step. A run that ends
    without a single one raises an error before its model is written: the base under another name.
    """

    def __init__(self) -> None:
        self.num_idle_epochs = 0
        """Epochs without a gradient, over the whole run."""
        self._has_learned = False
        self._learned_in_epoch = False
        self._num_steps = 0
        self._why = ""

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {
            "num_idle_epochs": self.num_idle_epochs,
            "has_learned": self._has_learned,
            "learned_in_epoch": self._learned_in_epoch,
            "num_steps": self._num_steps,
            "why": self._why,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from it."""
        self.num_idle_epochs = state_dict["num_idle_epochs"]
        self._has_learned, self._learned_in_epoch = state_dict["has_learned"], state_dict["learned_in_epoch"]
        self._num_steps, self._why = state_dict["num_steps"], state_dict["why"]

    def on_rollout_collected(
        self, trainer: L.Trainer, pl_module: Any, collected: CollectedRollout, iteration: int
    ) -> None:
        """Warns where the scores of all ranks say nothing about which response is better."""
        metrics = collected.statistics.metrics
        number = collected.statistics.num_sequences
        if metrics["rollout/masked_rate"] == 1:
            self._why = (
                f" None of the {number} responses of iteration {iteration} stopped, and mask_unstopped leaves those "
                "out. Raise max_response_length, or teach the base to stop."
            )
            return
        scores = [sample.score for sample in collected.samples]
        everywhere = pl_module.gather_over_ranks((min(scores), max(scores)))
        least, greatest = min(low for low, _ in everywhere), max(high for _, high in everywhere)
        if least == greatest and number > 1:
            told = f"all {number} responses of iteration {iteration} got the score {least:.4g}"
            rank_zero_warn(f"{told}. Nothing in it says which one is better.")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts; a batch that no step follows says nothing."""
        self._num_steps += 1

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Looks for a gradient of what is exported, which is the first group's."""
        if self._learned_in_epoch:
            return
        gradients = [weight.grad for weight in optimizer.param_groups[0]["params"] if weight.grad is not None]
        local = [each.to_local() if isinstance(each, DTensor) else each for each in gradients]
        largest = [each.abs().max() for each in local if each.numel()]
        moves = torch.stack(largest).max() > 0 if largest else torch.zeros((), dtype=torch.bool)
        self._learned_in_epoch = bool(pl_module.sum_over_ranks(moves.long().to(pl_module.device)) > 0)
        self._has_learned |= self._learned_in_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warns of an epoch without a gradient."""
        if not self._learned_in_epoch and self._num_steps:
            self.num_idle_epochs += 1
            rank_zero_warn(
                f"nothing was learned in epoch {trainer.current_epoch}: the gradient was 0 in each of its steps."
                f"{self._why} Such epochs so far: {self.num_idle_epochs}."
            )
        self._learned_in_epoch, self._num_steps, self._why = False, 0, ""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets no model be written that is the base.

        Raises:
            DataError: no step of the run had a gradient.
        """
        is_over = not trainer.interrupted and not trainer.received_sigterm and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if is_over and self.num_idle_epochs and not self._has_learned:
            raise DataError(
                f"a run must learn something for its model to be written, got {self.num_idle_epochs} epochs in which "
                "every gradient was 0: the weights are those of the base. See the warnings of each epoch."
            )
