"""Estimators of the KL divergence of the policy from the reference, one number per sampled token.

With `d = log pi(a) - log pi_ref(a)` for `a` sampled from `pi`. Source: Schulman 2020, "Approximating KL Divergence",
http://joschu.net/blog/kl-approx.html
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from lightning_rlhf.functional.masking import at_least_float32

__all__ = ["KL_ESTIMATORS", "kl_k1", "kl_k2", "kl_k3"]


def kl_k1(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The unbiased estimator that may be negative: `k1 = d`.

    The one for the reward. As a loss it has no gradient in expectation.

    Args:
        logprobs: of the policy, any shape.
        ref_logprobs: of the reference, the same shape.

    Returns:
        Nats, elementwise, in at least float32.

    Example:
        >>> import torch
        >>> kl_k1(torch.tensor([-1.0]), torch.tensor([-1.5]))
        tensor([0.5000])
    """
    return at_least_float32(logprobs) - at_least_float32(ref_logprobs)


def kl_k2(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The biased estimator of low variance: `k2 = d^2 / 2`.

    The one for a loss on samples of the policy: its expected gradient is that of the KL divergence.

    Args:
        logprobs: of the policy, any shape.
        ref_logprobs: of the reference, the same shape.

    Returns:
        Nats, elementwise, never negative, in at least float32.

    Example:
        >>> import torch
        >>> kl_k2(torch.tensor([-1.0]), torch.tensor([-1.5]))
        tensor([0.1250])
    """
    return kl_k1(logprobs, ref_logprobs).square() / 2


def kl_k3(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The unbiased estimator that is never negative: `k3 = exp(-d) - 1 + d`.

    The one to report. As a loss on samples of the policy its gradient is biased.

    Args:
        logprobs: of the policy, any shape.
        ref_logprobs: of the reference, the same shape.

    Returns:
        Nats, elementwise, in at least float32.

    Example:
        >>> import torch
        >>> kl_k3(torch.tensor([-1.0]), torch.tensor([-1.5]))
        tensor([0.1065])
    """
    d = kl_k1(logprobs, ref_logprobs)
    return (-d).expm1() + d  # expm1 keeps the digits that exp(-d) - 1 loses near d = 0


KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
)
"""The estimators by name."""
