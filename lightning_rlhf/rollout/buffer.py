"""The rollout between collection and update: how it is cut into minibatches and how it is saved."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_rlhf.batches import Rollout
from lightning_rlhf.rollout.randomness import permutation

__all__ = ["minibatches", "rollout_from_state", "rollout_state", "select_rows"]


def minibatches(seed: int, iteration: int, *, num_rows: int, size: int, num_epochs: int) -> list[Tensor]:
    """Row numbers of all minibatches of an iteration; each pass takes every row once, in a fresh order.

    Args:
        seed: the run's seed.
        iteration: iteration of the run.
        num_rows: rows of the rollout.
        size: rows of a minibatch; the last one of a pass may have fewer.
        num_epochs: passes over the rollout.

    >>> [rows.numel() for rows in minibatches(0, 0, num_rows=5, size=2, num_epochs=1)]
    [2, 2, 1]
    """
    orders = [permutation(seed, f"minibatch {epoch}", iteration, num_rows) for epoch in range(num_epochs)]
    return [torch.from_numpy(order[start : start + size]) for order in orders for start in range(0, num_rows, size)]


def select_rows(rollout: Rollout, rows: Tensor) -> Rollout:
    """These rows of a rollout, trimmed to what they need.

    Args:
        rollout: on the CPU.
        rows: row numbers, on any device.
    """
    index = rows.cpu()  # Lightning has moved the batch to the device
    prompt_length = max(int(rollout.prompt_mask[index].sum(-1).max()), 1)
    response_length = max(int(rollout.completion_mask[index].sum(-1).max()), 1)
    parts = rollout._asdict()
    for name, tensor in parts.items():
        chosen = tensor[index]
        prompt = name in ("prompt_ids", "prompt_mask")
        parts[name] = chosen[:, -prompt_length:] if prompt else chosen[:, :response_length]
    return Rollout(**parts)


def rollout_state(rollout: Rollout) -> dict[str, Tensor]:
    """The rollout in types that `torch.load(weights_only=True)` admits."""
    return dict(rollout._asdict())


def rollout_from_state(state: Mapping[str, Tensor]) -> Rollout:
    """The rollout again."""
    return Rollout(**state)
