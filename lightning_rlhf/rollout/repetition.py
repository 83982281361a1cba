"""How much a response repeats itself."""

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["distinct_2"]


def distinct_2(response_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Share of distinct pairs of neighbouring tokens within each response; 1 where there is no pair (Li et al. 2016).

    Args:
        response_ids: `(B, R)`.
        completion_mask: `(B, R)`, True up to and including the stop token.

    Returns:
        `(B,)`.

    >>> ids = torch.tensor([[5, 5, 5, 5], [5, 6, 0, 0]])
    >>> distinct_2(ids, torch.tensor([[True, True, True, True], [True, True, False, False]]))
    tensor([0.3333, 1.0000])
    """
    shares = []
    for ids, length in zip(response_ids.tolist(), completion_mask.sum(-1).tolist(), strict=True):
        pairs = list(pairwise(ids[:length]))
        shares.append(len(set(pairs)) / len(pairs) if pairs else 1.0)
    return torch.tensor(shares, dtype=torch.float32)
