"""Losses and accuracy of scores against a ranking of K candidates.

`ranks` hold 0 for the best and equal places for ties; a candidate that nobody ranked is False in the candidate mask and
may hold anything, nan included. Pairwise losses are means within a prompt, then over the prompts: a prompt weighs the
same whatever its K.
"""

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor
from torch.nn import functional as F

from lightning_rlhf.functional.masking import Denominator, at_least_float32, masked_mean, mean_per_row, normalized_sum

__all__ = [
    "centering_penalty",
    "ordered_pairs",
    "pairwise_ranking_loss",
    "plackett_luce_loss",
    "ranking_accuracy",
    "regression_loss",
]


def ordered_pairs(ranks: Real[Tensor, "B K"], candidate_mask: Bool[Tensor, "B K"]) -> Bool[Tensor, "B K K"]:
    """Which candidate beats which: `[i, j]` is True where `i` stands before `j`. Ties give no pair.

    `ordered_pairs(...).any((1, 2)).sum()` is the `num_prompts` of the losses.

    Args:
        ranks: places, 0 = best, `(B, K)`.
        candidate_mask: True = ranked, `(B, K)`.

    Returns:
        `(B, K, K)`.

    Example:
        >>> import torch
        >>> ordered_pairs(torch.tensor([[1, 0]]), torch.tensor([[True, True]]))
        tensor([[[False, False],
                 [ True, False]]])
    """
    return (ranks[:, :, None] < ranks[:, None, :]) & candidate_mask[:, :, None] & candidate_mask[:, None, :]


def pairwise_ranking_loss(
    scores: Float[Tensor, "B K"],
    ranks: Real[Tensor, "B K"],
    candidate_mask: Bool[Tensor, "B K"],
    *,
    margins: Float[Tensor, "B K K"] | None = None,
    num_prompts: Denominator = None,
) -> Float[Tensor, ""]:
    """All pairs of a ranking: `1/N sum_prompts mean_{i before j} -log sigmoid(s_i - s_j - m_ij)`.

    K = 2 is the loss of Bradley and Terry.

    Source: Ouyang et al. 2022, eq. 1; the margin: Touvron et al. 2023 (Llama 2), eq. 2; Bradley and Terry 1952.

    Args:
        scores: `s`, `(B, K)`.
        ranks: places, 0 = best, `(B, K)`.
        candidate_mask: True = ranked, `(B, K)`.
        margins: `m`, by how much `i` should beat `j`, `(B, K, K)`; None: 0.
        num_prompts: `N`, prompts with an ordered pair; None: those of this call.

    Returns:
        A scalar in at least float32; 0, with zero gradient, without an ordered pair.

    Example:
        >>> import torch
        >>> pairwise_ranking_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
        tensor(0.3133)
    """
    pairs = ordered_pairs(ranks, candidate_mask)
    scores = at_least_float32(scores)
    differences = scores[:, :, None] - scores[:, None, :]
    if margins is not None:
        differences = differences - margins
    losses = -F.logsigmoid(differences.masked_fill(~pairs, 0))
    return normalized_sum(mean_per_row(losses, pairs), pairs.any(2).any(1), num_prompts)


def plackett_luce_loss(
    scores: Float[Tensor, "B K"],
    ranks: Real[Tensor, "B K"],
    candidate_mask: Bool[Tensor, "B K"],
    *,
    num_prompts: Denominator = None,
) -> Float[Tensor, ""]:
    """The whole order at once: `1/N sum_prompts -sum_i [s_i - logsumexp({s_i} and all s_j with rank_j > rank_i)]`.

    Tied candidates are not compared with each other. K = 2 is the loss of Bradley and Terry.

    Source: Plackett 1975; Luce 1959.

    Args:
        scores: `s`, `(B, K)`.
        ranks: places, 0 = best, `(B, K)`.
        candidate_mask: True = ranked, `(B, K)`.
        num_prompts: `N`, prompts with an ordered pair; None: those of this call.

    Returns:
        A scalar in at least float32; 0, with zero gradient, without an ordered pair.

    Example:
        >>> import torch
        >>> scores, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
        >>> plackett_luce_loss(scores, torch.tensor([[0, 1, 2]]), mask)  # log 3!
        tensor(1.7918)
    """
    pairs = ordered_pairs(ranks, candidate_mask)
    scores = at_least_float32(scores).masked_fill(~candidate_mask, 0)
    # everyone stands in their own set: a logsumexp over an empty one has the gradient nan
    compared = pairs | torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    rivals = scores[:, None, :].masked_fill(~compared, float("-inf"))
    losses = (rivals.logsumexp(-1) - scores).sum(1)
    return normalized_sum(losses, pairs.any(2).any(1), num_prompts)


def regression_loss(
    scores: Float[Tensor, "B K"],
    targets: Float[Tensor, "B K"],
    candidate_mask: Bool[Tensor, "B K"],
    *,
    num_prompts: Denominator = None,
) -> Float[Tensor, ""]:
    """The squared error: `1/N sum_prompts mean_i (s_i - y_i)^2`.

    Args:
        scores: `s`, `(B, K)`.
        targets: `y`, the converter's rewards, `(B, K)`.
        candidate_mask: True = has a target, `(B, K)`.
        num_prompts: `N`; None: prompts of this call with at least one target.

    Returns:
        A scalar in at least float32; 0, with zero gradient, for an empty mask.

    Example:
        >>> import torch
        >>> regression_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[True, True]]))
        tensor(2.5000)
    """
    errors = (at_least_float32(scores) - at_least_float32(targets)).masked_fill(~candidate_mask, 0)
    return normalized_sum(mean_per_row(errors.square(), candidate_mask), candidate_mask.any(1), num_prompts)


def centering_penalty(
    scores: Float[Tensor, "B K"],
    ranks: Real[Tensor, "B K"],
    candidate_mask: Bool[Tensor, "B K"],
    *,
    num_prompts: Denominator = None,
) -> Float[Tensor, ""]:
    """What holds scores near 0, which rankings alone leave open: `1/N sum_prompts mean_{i before j} (s_i + s_j)^2`.

    Source: Eisenstein et al. 2023, eq. 2.

    Args:
        scores: `s`, `(B, K)`.
        ranks: places, 0 = best, `(B, K)`.
        candidate_mask: True = ranked, `(B, K)`.
        num_prompts: `N`, prompts with an ordered pair; None: those of this call.

    Returns:
        A scalar in at least float32; 0, with zero gradient, without an ordered pair.

    Example:
        >>> import torch
        >>> centering_penalty(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
        tensor(9.)
    """
    pairs = ordered_pairs(ranks, candidate_mask)
    scores = at_least_float32(scores)
    sums = (scores[:, :, None] + scores[:, None, :]).masked_fill(~pairs, 0)
    return normalized_sum(mean_per_row(sums.square(), pairs), pairs.any(2).any(1), num_prompts)


def ranking_accuracy(
    scores: Float[Tensor, "B K"], ranks: Real[Tensor, "B K"], candidate_mask: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """The share of ordered pairs that the scores order likewise: `mean_{i before j} [s_i > s_j] + 1/2 [s_i = s_j]`.

    Args:
        scores: `s`, `(B, K)`.
        ranks: places, 0 = best, `(B, K)`.
        candidate_mask: True = ranked, `(B, K)`.

    Returns:
        A scalar from 0 to 1, over all pairs of all prompts; 0 without an ordered pair.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, True]])
        >>> ranking_accuracy(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[0, 1, 2]]), mask)
        tensor(0.8333)
    """
    scores = at_least_float32(scores.detach())
    order = torch.sign(scores[:, :, None] - scores[:, None, :])
    return masked_mean((1 + order) / 2, ordered_pairs(ranks, candidate_mask))
