"""Where a response ends and which place a token has.

Both come from stop positions and masks, never from the padding id: it may be a stop id, or not exist.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

__all__ = ["completion_mask", "position_ids"]


def completion_mask(response_ids: Int64[Tensor, "B R"], stop_ids: Sequence[int]) -> Bool[Tensor, "B R"]:
    """True up to and including the first stop token: `m_t = [no stop token in a_0 .. a_{t-1}]`.

    Args:
        response_ids: sampled tokens `(B, R)`; what follows a stop token may be anything.
        stop_ids: ids that end a response.

    Returns:
        `(B, R)`; all True for a row that holds no stop token.

    Example:
        >>> import torch
        >>> completion_mask(torch.tensor([[5, 2, 2, 7], [5, 6, 7, 8]]), [2])
        tensor([[ True,  True, False, False],
                [ True,  True,  True,  True]])
    """
    stops = torch.isin(response_ids, response_ids.new_tensor(list(stop_ids)))
    return (stops.cumsum(-1) - stops.long()) == 0


def position_ids(attention_mask: Bool[Tensor, "*batch T"]) -> Int64[Tensor, "*batch T"]:
    """The place of each token in its row, counted from 0: the exclusive cumulative sum of the mask.

    A row's tokens have the same positions alone and padded, on either side, so that a model gives them the same
    log-probabilities.

    Args:
        attention_mask: True = a real token, `(B, T)`.

    Returns:
        int64, the shape of `attention_mask`.

    Example:
        >>> import torch
        >>> position_ids(torch.tensor([[False, False, True, True, True]]))
        tensor([[0, 0, 0, 1, 2]])
    """
    return attention_mask.cumsum(-1) - attention_mask.long()
