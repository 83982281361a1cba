"""Stops a run before its weights take in what is no number."""

import math
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_rlhf.arguments import require_at_least, require_one_of
from lightning_rlhf.errors import DivergenceError

__all__ = ["NonFiniteGuard"]

Action = Literal["stop", "skip"]

_ADVICE = "What was saved before is kept. Lower the learning rate."


class NonFiniteGuard(Callback):
    """Stops the run when a loss or gradient is not finite, before the weights change; or leaves such steps out.

    Looked at once per optimizer step, over all micro-batches and ranks. Gradients that overflow under 16-mixed are the
    scaler's to deal with: it lowers its scale and leaves the step out; they count from the moment when the scale has
    come down below 1, where nothing overflows because of it. Weights that are not finite, or with which a pass over the
    last training batch is not, are never saved.

    Args:
        action: stop ends the run and names the rows; skip leaves the step out and counts it as train/skipped_steps.
        max_in_a_row: with skip, steps left out one after the other before the run is stopped all the same.
    """

    def __init__(self, action: Action = "stop", max_in_a_row: int = 10) -> None:
        require_one_of(Action, "action of NonFiniteGuard", action)
        require_at_least(1, of="NonFiniteGuard", max_in_a_row=max_in_a_row)
        self.action: Action = action
        self.max_in_a_row = max_in_a_row
        self.num_skipped = 0
        """Steps left out in this run."""
        self._in_a_row = 0
        self._batch_idx = 0
        self._batch: Any = None
        self._heldout: Any = None
        """The last held-out batch, where it is of the kind that is trained on."""
        self._sound_at = -1
        """The step whose weights are known to be sound."""
        self._losses: list[tuple[int, Tensor]] = []

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"num_skipped": self.num_skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on counting."""
        self.num_skipped, self._in_a_row = state_dict["num_skipped"], state_dict["in_a_row"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins a window anew."""
        self._batch_idx, self._batch = batch_idx, batch
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._losses.clear()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the batch: rows with other tokens than the last step's show more."""
        self._heldout = batch if type(batch) is type(self._batch) else None

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keeps the loss; looking at it at once would hold up the device."""
        self._losses.append((self._batch_idx, loss.detach()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Looks at losses and gradients of the window.

        Raises:
            DivergenceError: one is not finite.
        """
        losses, self._losses = self._losses, []
        bad_losses = ~torch.stack([loss for _, loss in losses]).isfinite() if losses else torch.zeros(0)
        bad_gradient = _largest_gradient(optimizer, pl_module.device).isfinite().logical_not()
        if _is_scalers(trainer):
            bad_gradient = torch.zeros_like(bad_gradient)
        counts = torch.stack([bad_losses.sum().to(pl_module.device), bad_gradient.sum()])
        num_losses, num_gradients = pl_module.sum_over_ranks(counts).tolist()
        if num_losses or num_gradients:
            bad = [(batch_idx, float(loss)) for batch_idx, loss in losses if not math.isfinite(loss)]
            own = bad if num_losses else [(batch_idx, math.nan) for batch_idx, _ in losses]
            self._meet(trainer, pl_module, optimizer, "loss" if num_losses else "gradient", own)
        else:
            self._in_a_row = 0
        if self.action == "skip":
            pl_module.log("train/skipped_steps", float(self.num_skipped))

    def _meet(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        optimizer: torch.optim.Optimizer,
        what: str,
        batches: list[tuple[int, float]],
    ) -> None:
        """Stops, or leaves the step out; the same on every rank."""
        found = sorted({str(value) for _, value in batches}) if what == "loss" else [_name_of_gradient(pl_module)]
        rows = [text for batch_idx, _ in batches if (text := pl_module.describe_batch(batch_idx))]
        told = [each for each in pl_module.gather_over_ranks((found, rows)) if each[0]]
        values = " and ".join(dict.fromkeys(value for each, _ in told for value in each if value))
        places = "; ".join(text for _, texts in told for text in texts)
        step = f"step {trainer.global_step}, epoch {trainer.current_epoch}"
        message = f"the {what} must be finite, got {values} in {step}{f': {places}' if places else ''}."
        if self.action == "skip" and self._in_a_row < self.max_in_a_row:
            self.num_skipped += 1
            self._in_a_row += 1
            optimizer.zero_grad()  # without gradients neither clipping nor AdamW does anything
            rank_zero_info(f"{message} The step is left out.")
            return
        if self.action == "skip":
            message += f" The {self._in_a_row} steps before it were left out."
        raise DivergenceError(
            f"{message} The weights are still those of the step before. Look at these rows, lower the learning rate or "
            "set trainer.gradient_clip_val; the callback NonFiniteGuard with action: skip leaves such steps out."
        )

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the last good checkpoint where the weights are none.

        Raises:
            DivergenceError: a weight, or what the weights compute, is not finite.
        """
        self.check_weights(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Lets no model be written whose weights are none.

        Raises:
            DivergenceError: a weight, or what the weights compute, is not finite.
        """
        self.check_weights(pl_module)
        self._batch = self._heldout = None

    def check_weights(self, pl_module: Any) -> None:
        """Looks at the trained weights, and at what they make of the last training batch; on every rank.

        A step may leave weights that are numbers and compute none: the next loss would show it, after they were saved.

        Raises:
            DivergenceError: a weight, or what the weights compute, is not finite.
        """
        trained = [(name, _local(weight)) for name, weight in pl_module.named_parameters() if weight.requires_grad]
        largest = _largest([weight for _, weight in trained], pl_module.device)
        if pl_module.sum_over_ranks((~largest.square().isfinite()).long()):  # no product of two such weights is one
            names = [name for name, weight in trained if not weight.float().square().isfinite().all()]
            raise DivergenceError(
                f"the weights must be finite to be saved, got others in {names[0] if names else 'another process'} "
                f"after step {pl_module.trainer.global_step}. {_ADVICE}"
            )
        self._check_pass(pl_module)

    def _check_pass(self, pl_module: Any) -> None:
        step = pl_module.trainer.global_step
        if self._batch is None or self._sound_at == step:
            return
        unsound = torch.zeros((), dtype=torch.int64, device=pl_module.device)
        for batch in [self._batch, *([] if self._heldout is None else [self._heldout])]:
            computed = pl_module.computed_on(batch).float()
            unsound += ~computed.square().isfinite().all()  # squared, as losses and optimizers have it
        if pl_module.sum_over_ranks(unsound):
            raise DivergenceError(
                f"what the weights compute must be finite for them to be saved, got nan, inf or numbers near it after "
                f"step {step}. {_ADVICE}"
            )
        self._sound_at = step


def _is_scalers(trainer: L.Trainer) -> bool:
    """Whether a gradient that is not finite may be an overflow, which the scaler of 16-mixed takes care of."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.is_enabled() and scaler.get_scale() >= 1


def _largest_gradient(optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return _largest([_local(weight.grad) for weight in weights if weight.grad is not None], device)


def _largest(tensors: list[Tensor], device: torch.device) -> Tensor:
    """The greatest absolute value, nan where there is one: it overflows in no precision, as a sum of squares would."""
    tensors = [tensor.detach() for tensor in tensors if tensor.numel()]
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(tensors, math.inf)]).max()


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _name_of_gradient(pl_module: nn.Module) -> str:
    for name, weight in pl_module.named_parameters():
        if weight.grad is not None and not _local(weight.grad).isfinite().all():
            return f"another one for {name}"
    return ""
