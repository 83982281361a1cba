"""The reward of each token: the price of leaving the reference, and the score where the response ends."""

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_rlhf.functional.masking import at_least_float32

__all__ = ["shape_rewards"]


def shape_rewards(
    scores: Float[Tensor, " B"] | Float[Tensor, "B R"],
    kl: Float[Tensor, "B R"],
    completion_mask: Bool[Tensor, "B R"],
    *,
    kl_coef: float | Float[Tensor, ""],
) -> Float[Tensor, "B R"]:
    """Token rewards: `r_t = -beta k_t + [t is the last token] s`, 0 after the stop token.

    The KL is charged on every token of the response, the stop token included.

    Source: Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2.

    Args:
        scores: `s`, one per response `(B,)`, paid at the last True of its row; or one per token `(B, R)`, paid where
            they stand.
        kl: `k`, the KL estimate of each token `(B, R)`.
        completion_mask: True up to and including the stop token `(B, R)`.
        kl_coef: `beta`.

    Returns:
        Token rewards `(B, R)`, in at least float32.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, False]])
        >>> shape_rewards(torch.tensor([1.0]), torch.tensor([[0.5, 0.5, 0.5]]), mask, kl_coef=0.1)
        tensor([[-0.0500,  0.9500,  0.0000]])
    """
    penalty = -kl_coef * at_least_float32(kl).masked_fill(~completion_mask, 0)
    scores = at_least_float32(scores)
    if scores.ndim == kl.ndim:
        return penalty + scores.masked_fill(~completion_mask, 0)
    num_left = completion_mask.flip(-1).cumsum(-1).flip(-1)  # True entries from here on
    is_last = completion_mask & (num_left == 1)
    return penalty + scores.unsqueeze(-1).expand_as(kl).masked_fill(~is_last, 0)
