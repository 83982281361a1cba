"""How much better a token was than expected."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from lightning_rlhf.functional.masking import at_least_float32

__all__ = ["generalized_advantage_estimation"]


def generalized_advantage_estimation(
    token_rewards: Float[Tensor, "B R"],
    values: Float[Tensor, "B R"],
    completion_mask: Bool[Tensor, "B R"],
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B R"]]:
    """Advantages `A_t = delta_t + gamma lambda A_{t+1}`, `delta_t = r_t + gamma V_{t+1} - V_t`; returns `A_t + V_t`.

    The episode ends with the response: `V_T = 0`, and so is everything after the stop token.

    Source: Schulman et al. 2016, eq. 16.

    Args:
        token_rewards: `r`, `(B, R)`.
        values: `V`, read before the token is sampled, `(B, R)`.
        completion_mask: True up to and including the stop token `(B, R)`.
        gamma: discount per token.
        gae_lambda: `lambda`; 1: Monte-Carlo returns, 0: one-step errors.

    Returns:
        Advantages, not whitened, and returns, both `(B, R)`, detached, 0 outside the mask, in at least float32.

    Example:
        >>> import torch
        >>> rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3)
        >>> mask = torch.tensor([[True, True, True]])
        >>> advantages, returns = generalized_advantage_estimation(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
        >>> advantages
        tensor([[0.9025, 0.9500, 1.0000]])
    """
    token_rewards = at_least_float32(token_rewards.detach()).masked_fill(~completion_mask, 0)
    values = at_least_float32(values.detach()).masked_fill(~completion_mask, 0)
    next_values = F.pad(values[:, 1:], (0, 1)) if values.shape[1] else values
    deltas = token_rewards + gamma * next_values - values
    advantages = torch.empty_like(deltas)
    following = deltas.new_zeros(deltas.shape[0])
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + gamma * gae_lambda * following
        advantages[:, t] = following
    advantages = advantages.masked_fill(~completion_mask, 0)
    return advantages, advantages + values
