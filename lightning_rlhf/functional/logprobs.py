"""Log-probabilities and entropy from logits.

Nothing is shifted: row `i` of the logits predicts entry `i` of the ids.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_rlhf.functional.masking import at_least_float32

__all__ = ["token_entropy", "token_logprobs"]

_LARGE_VOCABULARY = 2**14
"""From this size on, logits go through the softmax in pieces. At 8,192 a backward pass on a CPU took longer with it."""
_NUM_PIECES = 16


def _tempered(logits: Float[Tensor, "*batch V"], temperature: float) -> Float[Tensor, "*batch V"]:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}. Take the largest logit for greedy decoding.")
    logits = at_least_float32(logits)
    return logits if temperature == 1 else logits / temperature


def token_logprobs(
    logits: Float[Tensor, "*batch V"], ids: Int64[Tensor, "*batch"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Log-probability of each token: `log pi(a_t) = z_t[a_t] / tau - logsumexp(z_t / tau)`.

    Args:
        logits: `z`, `(..., V)`.
        ids: `a`, the token that each row of logits predicts.
        temperature: `tau`, the one that the tokens were sampled with.

    Returns:
        Nats, the shape of `ids`, in at least float32.

    Raises:
        ValueError: the temperature is not above 0.

    Example:
        >>> import torch
        >>> token_logprobs(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([-0.6931])
    """
    if logits.shape[-1] < _LARGE_VOCABULARY:
        return _logprobs(logits, ids, temperature)
    rows = logits.reshape(-1, logits.shape[-1])
    flat: Tensor = _LogprobsInPieces.apply(rows, ids.reshape(-1), temperature)  # type: ignore[no-untyped-call]
    return flat.view(ids.shape)


def token_entropy(logits: Float[Tensor, "*batch V"], *, temperature: float = 1.0) -> Float[Tensor, "*batch"]:
    """Entropy of the next token: `H_t = -sum_v p_t(v) log p_t(v)`, `p_t = softmax(z_t / tau)`.

    Source: Shannon 1948, section 6.

    Args:
        logits: `z`, `(..., V)`; -inf is a token of probability 0.
        temperature: `tau`.

    Returns:
        Nats, the shape of `logits` without its last axis, in at least float32.

    Raises:
        ValueError: the temperature is not above 0.

    Example:
        >>> import torch
        >>> token_entropy(torch.tensor([[0.0, 0.0], [0.0, float("-inf")]]))
        tensor([0.6931, 0.0000])
    """
    if logits.shape[-1] < _LARGE_VOCABULARY:
        return _entropy(logits, temperature)
    pieces = logits.reshape(-1, logits.shape[-1]).tensor_split(_NUM_PIECES)
    return torch.cat([_entropy(piece, temperature) for piece in pieces]).view(logits.shape[:-1])


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    logprobs = _tempered(logits, temperature).log_softmax(-1)
    # 0 log 0 is 0 in an entropy and nan on a computer
    return (logprobs.exp() * -logprobs.nan_to_num(neginf=0.0)).sum(-1)


def _logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    # not the difference to logsumexp: on a CPU that takes twice as long, and twice the memory in the backward pass
    return _tempered(logits, temperature).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


class _LogprobsInPieces(torch.autograd.Function):
    """The same of `(N, V)` logits, whose log-softmax is never there as a whole.

    Of a large vocabulary the logits are the largest tensor of a step, and autograd would hold three more of their size
    in at least float32. Here the gradient is the only one, and the softmax is worked out once more on the way back.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(logits, ids)
        ctx.temperature = temperature
        pieces = zip(logits.tensor_split(_NUM_PIECES), ids.tensor_split(_NUM_PIECES), strict=True)
        return torch.cat([_logprobs(some, taken, temperature) for some, taken in pieces])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, ids = ctx.saved_tensors
        result = torch.empty_like(logits)
        split = (tensor.tensor_split(_NUM_PIECES) for tensor in (result, logits, ids, grad / ctx.temperature))
        for into, some, taken, weights in zip(*split, strict=True):
            place, weight = taken.unsqueeze(-1), weights.unsqueeze(-1)
            given = _tempered(some, ctx.temperature).softmax(-1).mul_(-weight)
            into.copy_(given.scatter_(-1, place, given.gather(-1, place) + weight))
        return result, None, None
