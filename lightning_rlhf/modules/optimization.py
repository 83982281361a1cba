"""Optimizer and learning-rate schedule that the stages share."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_rlhf.errors import ConfigError

__all__ = ["LRSchedule", "adamw", "check_schedule", "learning_rate_schedule"]

LRSchedule = Literal["constant", "linear", "cosine"]


_FUSED_DEVICES = ("cpu", "cuda", "mps")


def adamw(groups: Iterable[Mapping[str, Any]], *, weight_decay: float, scales_gradients: bool = False) -> AdamW:
    """AdamW over groups of `{"params", "lr", "name"}`; vectors (biases, norms) are not decayed.

    A step is one fused pass over the weights where torch has one: a fifth of the time on a CPU.

    Args:
        groups: parameters, learning rate and name of each group.
        weight_decay: decay of matrices.
        scales_gradients: the gradients are scaled, as under fp16: a fused step would unscale them by itself, after the
            Trainer's clipping.
    """
    parts: list[dict[str, Any]] = []
    for group in groups:
        parameters: list[nn.Parameter] = [parameter for parameter in group["params"] if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        for suffix, members, decay in (("", matrices, weight_decay), ("/no_decay", vectors, 0.0)):
            if members:
                parts.append(
                    {"params": members, "lr": group["lr"], "weight_decay": decay, "name": group["name"] + suffix}
                )
    members = [parameter for part in parts for parameter in part["params"]]
    fused = not scales_gradients and all(_has_fused_step(parameter) for parameter in members)
    optimizer = AdamW(parts, fused=True) if fused else AdamW(parts)
    # Lightning refuses to clip for an optimizer that says this, also where nothing is scaled
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _has_fused_step(parameter: nn.Parameter) -> bool:
    return parameter.device.type in _FUSED_DEVICES and not isinstance(parameter, DTensor)


def learning_rate_schedule(
    optimizer: Optimizer, kind: LRSchedule, *, warmup_steps: int, num_steps: Callable[[], float]
) -> LambdaLR:
    """Linear warm-up, then constant, or linear or cosine decay to zero at the last step.

    Args:
        optimizer: whose groups are scheduled.
        kind: what follows the warm-up.
        warmup_steps: optimizer steps until the full learning rate.
        num_steps: optimizer steps in all; asked after the warm-up and the first step only, when they are known.
    """

    def factor(step: int) -> float:
        if step <= warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if kind == "constant":
            return 1.0
        progress = min((step - warmup_steps) / max(num_steps() - warmup_steps, 1.0), 1.0)
        return 1.0 - progress if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def check_schedule(kind: LRSchedule, *, warmup_steps: int, num_steps: float) -> None:
    """Checks a schedule against the length of the run.

    Raises:
        ConfigError: the schedule needs an end and the run has none, or the warm-up is longer than the run.
    """
    if not math.isfinite(num_steps) or num_steps < 0:
        raise ConfigError(
            f"lr_schedule {kind!r} must know the number of steps, got a run without end. "
            "Set trainer.max_epochs or trainer.max_steps, or use lr_schedule: constant."
        )
    if warmup_steps and warmup_steps >= num_steps:
        raise ConfigError(
            f"warmup_steps must be smaller than the run's {int(num_steps)} optimizer steps, got {warmup_steps}."
        )
