"""Numbers to watch, over a mask and over ranks."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lightning_rlhf.functional.masking import at_least_float32, has_spread, masked_moments

__all__ = ["combined_moments", "explained_variance"]


def combined_moments(
    counts: Int64[Tensor, "*parts"], means: Float[Tensor, "*parts"], variances: Float[Tensor, "*parts"]
) -> tuple[Int64[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Moments of the whole from those of its parts: `n = sum n_k`, `mu = sum n_k mu_k / n`,
    `sigma^2 = sum n_k (sigma_k^2 + (mu_k - mu)^2) / n`.

    Takes what `masked_moments` gave on every rank, gathered.

    Source: Chan, Golub and LeVeque 1979, section 2.

    Args:
        counts: `n_k`, one per part.
        means: `mu_k`; that of an empty part may be anything.
        variances: `sigma_k^2`, biased; likewise.

    Returns:
        Count, mean and biased variance, scalars; all 0 where every part is empty.

    Example:
        >>> import torch
        >>> combined_moments(torch.tensor([2, 1]), torch.tensor([2.0, 8.0]), torch.tensor([1.0, 0.0]))
        (tensor(3), tensor(4.), tensor(8.6667))
    """
    empty = counts == 0
    count = counts.sum()
    means = at_least_float32(means).masked_fill(empty, 0)
    variances = at_least_float32(variances).masked_fill(empty, 0)
    divisor = count + (count == 0)
    mean = (counts * means).sum() / divisor
    return count, mean, (counts * (variances + (means - mean).square())).sum() / divisor


def explained_variance(
    values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], completion_mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """How much of the returns the values foresaw: `1 - Var(R - V) / Var(R)`.

    1: all; 0: no more than a constant would; below 0: less.

    Args:
        values: `V`, `(B, R)`.
        returns: `R`, `(B, R)`.
        completion_mask: True = counts, `(B, R)`.

    Returns:
        A scalar in at least float32; 0 where the returns do not vary.

    Example:
        >>> import torch
        >>> values, returns = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0])
        >>> explained_variance(values, returns, torch.tensor([True, True, True]))
        tensor(0.6923)
    """
    values, returns = at_least_float32(values.detach()), at_least_float32(returns.detach())
    _, mean, variance = masked_moments(returns, completion_mask)
    _, _, unexplained = masked_moments(returns - values, completion_mask)
    varies = has_spread(mean, variance)
    return torch.where(varies, 1 - unexplained / torch.where(varies, variance, 1.0), 0.0)
