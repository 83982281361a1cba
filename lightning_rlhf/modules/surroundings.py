"""The Trainer's side of a module: its seed, its ranks and how its losses are scaled."""

import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

__all__ = ["RunSurroundings", "gathered"]


class RunSurroundings(L.LightningModule):
    """A module that knows its place among the ranks of its Trainer."""

    @property
    def seed(self) -> int:
        """The run's seed: `seed_everything` on the command line or in a notebook; 0 without it."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def num_data_ranks(self) -> int:
        """Ranks that see different rows, over which the strategy averages gradients."""
        kwargs = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}
        return int(kwargs.get("num_replicas", self.trainer.world_size))

    @property
    def loss_scale(self) -> int:
        """What turns `sum / N` into the global mean's gradient.

        Lightning divides by `accumulate_grad_batches` and strategies average over ranks; N already counts the whole
        accumulation window over all ranks.
        """
        return self.trainer.accumulate_grad_batches * self.num_data_ranks

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled up for the backward pass, so that gradients do not vanish in half precision."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in the tensor's own dtype."""
        if self.trainer.world_size == 1:
            return value
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum")

    def gather_over_ranks(self, own: Any) -> list[Any]:
        """What every rank gives, in rank order, on every rank."""
        return gathered(own)

    def log_global(self, values: Mapping[str, Any], **options: Any) -> None:
        """Logs numbers that are the same on all ranks, without Lightning's advice to reduce them."""
        self.log_dict(values, sync_dist=self.trainer.world_size > 1, **options)


def gathered(own: Any) -> list[Any]:
    """What every rank gives, in rank order, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone
