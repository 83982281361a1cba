"""How well the value model does."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_rlhf.functional.masking import at_least_float32, has_spread, masked_moments

__all__ = ["explained_variance"]


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
