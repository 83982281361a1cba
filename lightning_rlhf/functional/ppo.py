"""The losses of proximal policy optimization, and what to watch while they fall."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_rlhf.functional.masking import Denominator, at_least_float32, masked_mean, normalized_sum

__all__ = ["approx_kl", "clip_fraction", "clipped_policy_loss", "clipped_value_loss"]


def _log_ratio(
    logprobs: Float[Tensor, "*shape"], old_logprobs: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    return (at_least_float32(logprobs) - at_least_float32(old_logprobs.detach())).masked_fill(~mask, 0)


def clipped_policy_loss(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    completion_mask: Bool[Tensor, "*shape"],
    *,
    clip_range: float,
    num_targets: Denominator = None,
) -> Float[Tensor, ""]:
    """The clipped surrogate: `1/N sum_t max(-A_t rho_t, -A_t clip(rho_t, 1-c, 1+c))`, `rho = exp(log pi - log pi_old)`.

    Source: Schulman et al. 2017, eq. 7, with the sign of a loss.

    Args:
        logprobs: of the policy, `(B, R)`; the gradient flows here alone.
        old_logprobs: of the policy that sampled, `(B, R)`.
        advantages: `A`, `(B, R)`.
        completion_mask: True = in the loss, `(B, R)`.
        clip_range: `c`.
        num_targets: `N`, tokens in the loss; None: those of this call.

    Returns:
        A scalar in at least float32; 0, with zero gradient, for an empty mask.

    Example:
        >>> import torch
        >>> logprobs, mask = torch.tensor([[0.5]]).log(), torch.tensor([[True]])
        >>> clipped_policy_loss(logprobs, torch.tensor([[0.25]]).log(), torch.tensor([[1.0]]), mask, clip_range=0.2)
        tensor(-1.2000)
    """
    ratio = _log_ratio(logprobs, old_logprobs, completion_mask).exp()
    advantages = at_least_float32(advantages.detach()).masked_fill(~completion_mask, 0)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return normalized_sum(losses, completion_mask, num_targets)


def clipped_value_loss(
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    completion_mask: Bool[Tensor, "*shape"],
    *,
    value_clip_range: float,
    num_targets: Denominator = None,
) -> Float[Tensor, ""]:
    """The clipped squared error: `1/N sum_t 1/2 max((V_t - R_t)^2, (clip(V_t, V_old - c, V_old + c) - R_t)^2)`.

    Source: Ziegler et al. 2019, as in
    https://github.com/openai/lm-human-preferences/blob/1ab856db6eece70f380be6ed54f56c6d94fe4de6/lm_human_preferences/train_policy.py#L337-L341

    Args:
        values: `V`, `(B, R)`; the gradient flows here alone.
        old_values: `V_old`, as of the rollout, `(B, R)`.
        returns: `R`, `(B, R)`.
        completion_mask: True = in the loss, `(B, R)`.
        value_clip_range: `c`; inf: no clipping.
        num_targets: `N`, tokens in the loss; None: those of this call.

    Returns:
        A scalar in at least float32; 0, with zero gradient, for an empty mask.

    Example:
        >>> import torch
        >>> values, old_values, returns = torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[2.0]])
        >>> clipped_value_loss(values, old_values, returns, torch.tensor([[True]]), value_clip_range=0.2)
        tensor(1.6200)
    """
    values = at_least_float32(values).masked_fill(~completion_mask, 0)
    old_values = at_least_float32(old_values.detach()).masked_fill(~completion_mask, 0)
    returns = at_least_float32(returns.detach()).masked_fill(~completion_mask, 0)
    clipped = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
    losses = torch.maximum((values - returns).square(), (clipped - returns).square()) / 2
    return normalized_sum(losses, completion_mask, num_targets)


def clip_fraction(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    completion_mask: Bool[Tensor, "*shape"],
    *,
    clip_range: float,
) -> Float[Tensor, ""]:
    """The share of tokens whose ratio left the clip range: `mean([|rho_t - 1| > c])`.

    Args:
        logprobs: of the policy, `(B, R)`.
        old_logprobs: of the policy that sampled, `(B, R)`.
        completion_mask: True = counts, `(B, R)`.
        clip_range: `c`.

    Returns:
        A scalar from 0 to 1.

    Example:
        >>> import torch
        >>> logprobs, mask = torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[True, True]])
        >>> clip_fraction(logprobs, torch.tensor([[0.25, 0.25]]).log(), mask, clip_range=0.2)
        tensor(0.5000)
    """
    deviation = _log_ratio(logprobs.detach(), old_logprobs, completion_mask).expm1()
    return masked_mean((deviation.abs() > clip_range).to(deviation.dtype), completion_mask)


def approx_kl(
    logprobs: Float[Tensor, "*shape"], old_logprobs: Float[Tensor, "*shape"], completion_mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """How far the policy has moved since the rollout: `mean(exp(d_t) - 1 - d_t)`, `d = log pi - log pi_old`.

    An estimate of `KL(pi_old, pi)` from samples of `pi_old`, never negative.

    Source: Schulman 2020, "Approximating KL Divergence", k3.

    Args:
        logprobs: of the policy, `(B, R)`.
        old_logprobs: of the policy that sampled, `(B, R)`.
        completion_mask: True = counts, `(B, R)`.

    Returns:
        A scalar, nats per token, in at least float32.

    Example:
        >>> import torch
        >>> logprobs, mask = torch.tensor([[0.5]]).log(), torch.tensor([[True]])
        >>> approx_kl(logprobs, torch.tensor([[0.25]]).log(), mask)
        tensor(0.3069)
    """
    d = _log_ratio(logprobs, old_logprobs, completion_mask)
    return masked_mean(d.expm1() - d, completion_mask)
