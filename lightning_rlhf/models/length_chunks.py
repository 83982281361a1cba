"""Rows of unequal length in several calls of a transformer, each no wider than its longest row needs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_rlhf.batches import TokenBatch

__all__ = ["RowChunk", "in_row_order", "length_chunks", "row_chunks"]

TOKENS_PER_CALL = 256
"""What a further call must spare: it has a price of its own, whatever it holds."""


class RowChunk:
    """Some rows of a batch, right-padded to the longest of them.

    Args:
        tokens: the batch.
        rows: numbers of the rows; None: the batch as it is.
        width: tokens of the longest of them.
    """

    def __init__(self, tokens: TokenBatch, rows: Sequence[int] | None = None, width: int = 0) -> None:
        self._places: tuple[Tensor, Tensor] | None = None
        self.tokens = tokens
        if rows is None:
            return
        device = tokens.input_ids.device
        index = torch.tensor(list(rows), device=device)
        mask = tokens.attention_mask[index]
        # real tokens first, in their order: prompts are padded on the left
        columns = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        self._places = index[:, None], columns
        self.tokens = TokenBatch(*(self.of(part) for part in tokens[:3]))

    @property
    def is_whole(self) -> bool:
        """Whether it is the batch as it is."""
        return self._places is None

    def of(self, whole: Tensor) -> Tensor:
        """The chunk's part of something that stands in the batch's places.

        Args:
            whole: `(B, T)`.
        """
        return whole if self._places is None else whole[self._places]


def row_chunks(model: nn.Module, tokens: TokenBatch) -> list[RowChunk]:
    """The batch in as many calls as spare more padding than they cost; mostly it is one.

    Packed rows hold no padding to speak of, and where weights are sharded all processes must make equally many calls:
    these stay whole.

    Args:
        model: what will be called.
        tokens: `(B, T)`, padded on either side.
    """
    if tokens.segment_ids is not None or any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return [RowChunk(tokens)]
    lengths = tokens.attention_mask.sum(-1).tolist()
    chunks = length_chunks(lengths, tokens_per_call=TOKENS_PER_CALL)
    if len(chunks) == 1 and max(lengths) == tokens.input_ids.shape[1]:
        return [RowChunk(tokens)]
    return [RowChunk(tokens, rows, max(lengths[rows[0]], 1)) for rows in chunks]


def in_row_order(parts: Sequence[Tensor], chunks: Sequence[RowChunk], keep: Tensor) -> Tensor:
    """What the chunks gave at the kept positions, in the batch's row-major order; gradients flow.

    Args:
        parts: of each chunk, one entry per kept position.
        chunks: as they were called.
        keep: bool `(B, T)`, the kept positions of the batch.
    """
    if len(chunks) == 1 and chunks[0].is_whole:
        return parts[0]
    numbers = (keep.flatten().cumsum(0) - 1).view(keep.shape)
    order = torch.cat([chunk.of(numbers)[chunk.of(keep)] for chunk in chunks])
    return torch.cat(list(parts)).index_select(0, order.argsort())


def length_chunks(lengths: Sequence[int], *, tokens_per_call: int) -> list[list[int]]:
    """Row numbers, longest first, cut so that the padded tokens and the calls together cost least.

    Args:
        lengths: tokens of each row.
        tokens_per_call: as many tokens as a call costs beside what it holds.

    >>> length_chunks([9, 3, 9, 2], tokens_per_call=4)
    [[0, 2], [1, 3]]
    >>> length_chunks([9, 3, 9, 2], tokens_per_call=50)
    [[0, 2, 1, 3]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    widths = np.asarray(lengths)[order]
    ends = np.arange(len(order) + 1)
    best, starts = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in ends[1:]:
        costs = best[:end] + (end - ends[:end]) * widths[:end] + tokens_per_call
        starts[end] = costs.argmin()
        best[end] = costs[starts[end]]
    chunks, end = [], len(order)
    while end > 0:
        start = int(starts[end])
        chunks.append(order[start:end].tolist())
        end = start
    return chunks[::-1]
