"""Cross-entropy over the tokens that a loss reads."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lightning_rlhf.functional.logprobs import token_logprobs
from lightning_rlhf.functional.masking import Denominator, normalized_sum

__all__ = ["next_token_loss", "token_cross_entropy"]

_IGNORED = -100


def token_cross_entropy(
    logits: Float[Tensor, "N V"], ids: Int64[Tensor, " N"], *, num_targets: Denominator = None
) -> Float[Tensor, ""]:
    """The mean surprise at the targets: `1/N sum_t -log pi(a_t)`. Nothing is shifted.

    Source: Radford et al. 2018 (GPT-1), eq. 1, with the sign of a loss.

    Args:
        logits: at the positions that the loss reads, and no others, `(N, V)`.
        ids: `a`, the token that each row predicts, `(N,)`.
        num_targets: the denominator, tokens in the loss; None: those of this call.

    Returns:
        A scalar, nats per token, in at least float32; 0, with zero gradient, without a target.

    Example:
        >>> import torch
        >>> token_cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 3]))  # log 4
        tensor(1.3863)
    """
    losses = -token_logprobs(logits, ids)
    return normalized_sum(losses, ids.new_ones(ids.shape, dtype=torch.bool), num_targets)


def next_token_loss(
    logits: Float[Tensor, "B T V"], labels: Int64[Tensor, "B T"], *, num_targets: Denominator = None
) -> Float[Tensor, ""]:
    """Cross-entropy of each label under the logits one position before it: `1/N sum_t -log pi(a_{t+1} | a_0 .. a_t)`.

    The one shift happens here: `logits[:, :-1]` against `labels[:, 1:]`.

    Source: Radford et al. 2018 (GPT-1), eq. 1, with the sign of a loss.

    Args:
        logits: at every position, `(B, T, V)`.
        labels: the token at the same position, -100 = not in the loss, `(B, T)`.
        num_targets: `N`, labels in the loss; None: those of this call.

    Returns:
        A scalar, nats per token, in at least float32; 0, with zero gradient, without a label.

    Example:
        >>> import torch
        >>> next_token_loss(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, -100]]))  # log 4
        tensor(1.3863)
    """
    targets = labels[:, 1:]
    supervised = targets != _IGNORED
    return token_cross_entropy(logits[:, :-1][supervised], targets[supervised], num_targets=num_targets)
