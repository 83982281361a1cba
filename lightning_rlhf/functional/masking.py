"""Means, moments and whitening over the entries that count.

What stands where a mask is False may be anything, inf and nan included: it changes neither value nor gradient. Hence
every function fills before its first non-linear step (`nan * 0` is nan, and so is `inf * 0` in a backward pass).
"""

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

__all__ = [
    "Denominator",
    "at_least_float32",
    "has_spread",
    "masked_mean",
    "masked_moments",
    "masked_whiten",
    "mean_per_row",
    "normalized_sum",
]

Denominator = int | Int[Tensor, ""] | None
"""What a loss divides its sum by: a count over the accumulation window and all ranks, or None, counted in this call."""

_ROUNDINGS = 16
"""By how many roundings of its own size the computed mean of equal numbers may differ from them."""


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` in float32 where it was half precision; float32 and float64 stay what they are.

    Args:
        x: any shape.

    Returns:
        The same numbers, `x` itself where nothing has to change.

    Example:
        >>> import torch
        >>> at_least_float32(torch.tensor([0.5], dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalized_sum(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], denominator: Denominator
) -> Float[Tensor, ""]:
    """The sum over the mask, over a denominator: `sum_{i in m} x_i / N`.

    Args:
        x: any shape.
        mask: True = counts.
        denominator: `N`; None: the number of True entries. 0 of anything is 0, with zero gradient.

    Returns:
        A scalar in at least float32.

    Example:
        >>> import torch
        >>> normalized_sum(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]), 8)
        tensor(0.5000)
    """
    total = at_least_float32(x).masked_fill(~mask, 0).sum()
    count = mask.sum() if denominator is None else denominator
    return total / (count + (count == 0))


def mean_per_row(x: Float[Tensor, "B *shape"], mask: Bool[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
    """The mean of each row over its mask.

    Args:
        x: rows of any shape.
        mask: True = counts.

    Returns:
        One number per row, in at least float32; 0 for a row without a True entry.

    Example:
        >>> import torch
        >>> mean_per_row(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[True, True], [False, True]]))
        tensor([2., 7.])
    """
    axes = tuple(range(1, x.ndim))
    counts = mask.sum(axes)
    return at_least_float32(x).masked_fill(~mask, 0).sum(axes) / (counts + (counts == 0))


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean over the mask: `sum_{i in m} x_i / |m|`.

    Args:
        x: any shape.
        mask: True = counts.

    Returns:
        A scalar in at least float32; 0, with zero gradient, for a mask without a True entry.

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
        tensor(2.)
    """
    return normalized_sum(x, mask, None)


def masked_moments(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> tuple[Int64[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Count, mean and biased variance over the mask: `n = |m|`, `mu = sum x_i / n`, `sigma^2 = sum (x_i - mu)^2 / n`.

    Args:
        x: any shape.
        mask: True = counts.

    Returns:
        Count, mean and variance, scalars; all 0 for a mask without a True entry.

    Example:
        >>> import torch
        >>> masked_moments(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
        (tensor(2), tensor(2.), tensor(1.))
    """
    x = at_least_float32(x).masked_fill(~mask, 0)
    mean = masked_mean(x, mask)
    return mask.sum(), mean, masked_mean((x - mean).square(), mask)


def has_spread(mean: Float[Tensor, ""], variance: Float[Tensor, ""]) -> Bool[Tensor, ""]:
    """Whether a variance is more than what rounding leaves of equal numbers: `sigma > 16 eps |mu|`.

    Args:
        mean: `mu`.
        variance: `sigma^2`.

    Returns:
        A bool scalar.

    Example:
        >>> import torch
        >>> has_spread(torch.tensor(100.0), torch.tensor(1e-12))
        tensor(False)
    """
    rounding = _ROUNDINGS * torch.finfo(variance.dtype).eps * mean.abs()
    return ~(variance.sqrt() <= rounding)  # not `>`: a nan among the numbers must show, not pass for equal numbers


def masked_whiten(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    *,
    mean: float | Float[Tensor, ""] | None = None,
    variance: float | Float[Tensor, ""] | None = None,
) -> Float[Tensor, "*shape"]:
    """Subtract the mean, divide by the deviation: `(x_i - mu) / sigma` where the mask is True, 0 elsewhere.

    The mean is not added back, and no constant is added to the variance; numbers that are all equal give 0.

    Source: Ziegler et al. 2019, as in
    https://github.com/openai/lm-human-preferences/blob/1ab856db6eece70f380be6ed54f56c6d94fe4de6/lm_human_preferences/train_policy.py#L332

    Args:
        x: any shape.
        mask: True = counts.
        mean: `mu`, where it spans more than this call (other ranks); None: the mean over the mask.
        variance: `sigma^2`, likewise; None: the biased variance over the mask.

    Returns:
        Shape and dtype of `x`.

    Example:
        >>> import torch
        >>> masked_whiten(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
        tensor([-1.,  1.,  0.])
    """
    filled = at_least_float32(x).masked_fill(~mask, 0)
    _, own_mean, own_variance = masked_moments(filled, mask)
    mu = own_mean if mean is None else torch.as_tensor(mean, dtype=filled.dtype, device=x.device)
    sigma2 = own_variance if variance is None else torch.as_tensor(variance, dtype=filled.dtype, device=x.device)
    spread = has_spread(mu, sigma2)
    # the 1 keeps sqrt away from 0, where its gradient is infinite
    whitened = (filled - mu) / torch.where(spread, sigma2, 1.0).sqrt()
    return whitened.masked_fill(~(mask & spread), 0).to(x.dtype)
