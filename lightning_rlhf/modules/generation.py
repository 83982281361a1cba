"""Greedy responses for samples and predictions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightning_rlhf.rollout.sampling import SampledResponses, sample_responses

__all__ = ["generate_greedily", "left_padded"]


def generate_greedily(
    model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, stop_ids: Sequence[int], max_response_length: int
) -> SampledResponses:
    """The most probable continuation token by token, until a stop token.

    Args:
        model: a causal language model.
        prompt_ids: `(B, P)`, left-padded.
        prompt_mask: `(B, P)`, True = keep.
        stop_ids: tokens that end a response.
        max_response_length: tokens at most.
    """
    was_training = model.training
    model.eval()
    try:
        return sample_responses(
            model,
            prompt_ids,
            prompt_mask,
            np.zeros((len(prompt_ids), max_response_length)),
            stop_ids=stop_ids,
            max_response_length=max_response_length,
            temperature=1.0,
            greedy=True,
        )
    finally:
        model.train(was_training)


def left_padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of ids as `(B, P)` ids and mask, padded on the left with id 0."""
    length = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), length), dtype=torch.int64, device=rows[0].device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, length - len(row) :] = row
        mask[index, length - len(row) :] = True
    return ids, mask
