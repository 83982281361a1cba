"""Log-probabilities and entropy from logits.

Nothing is shifted: row `i` of the logits predicts entry `i` of the ids.
"""

from jaxtyping import Float, Int64
from torch import Tensor

from lightning_rlhf.functional.masking import at_least_float32

__all__ = ["token_entropy", "token_logprobs"]


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
    # not the difference to logsumexp: on a CPU that takes twice as long, and twice the memory in the backward pass
    return _tempered(logits, temperature).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


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
    logprobs = _tempered(logits, temperature).log_softmax(-1)
    # 0 log 0 is 0 in an entropy and nan on a computer
    return (logprobs.exp() * -logprobs.nan_to_num(neginf=0.0)).sum(-1)
