"""What of a batch passes through a transformer in one call, and how the parts come together again."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.batches import SharedPrefixBatch, TokenBatch
from lightning_rlhf.models.length_chunks import length_chunks
from lightning_rlhf.models.memory_saving import is_sharded
from lightning_rlhf.models.shared_prefix import behind_prefixes, goes_on_behind_a_cache

__all__ = ["RowChunk", "in_row_order", "row_chunks"]

TOKENS_PER_CALL = 256
"""What a further call must spare: it has a price of its own, whatever it holds."""
_LEAST_SAVING = 0.2
"""Of the tokens: two passes of fewer tokens take longer than one where little is shared."""


class RowChunk:
    """Some rows of a batch, moved to the left and no wider than the longest of them.

    Args:
        tokens: what a transformer is called with: rows, or rows behind their prefixes.
        places: of the batch that the rows' tokens are from, as an index; None: the batch as it is.
    """

    def __init__(self, tokens: TokenBatch | SharedPrefixBatch, places: tuple[Tensor, Tensor] | None = None) -> None:
        self.tokens = tokens
        self._places = places
        self._mask = (tokens.rows if isinstance(tokens, SharedPrefixBatch) else tokens).attention_mask

    @property
    def is_whole(self) -> bool:
        """Whether it is the batch as it is."""
        return self._places is None

    def of(self, whole: Tensor) -> Tensor:
        """The chunk's part of something that stands in the batch's places, 0 in its own padding.

        Args:
            whole: `(B, T)`.
        """
        return whole if self._places is None else whole[self._places].masked_fill(~self._mask, 0)


def row_chunks(model: PreTrainedModel, tokens: TokenBatch) -> list[RowChunk]:
    """The batch in as many calls as spare more padding than they cost, mostly one; or behind its prefixes.

    Packed rows hold no padding to speak of, and where weights are sharded all processes must make equally many calls:
    these stay whole.

    Args:
        model: what will be called.
        tokens: `(B, T)`, padded on either side.
    """
    if tokens.segment_ids is not None or is_sharded(model):
        return [RowChunk(tokens)]
    lengths = tokens.attention_mask.sum(-1).tolist()
    chunks = length_chunks(lengths, tokens_per_call=TOKENS_PER_CALL)
    widths = [max(lengths[rows[0]], 1) for rows in chunks]
    if tokens.prefixes is not None and goes_on_behind_a_cache(model):
        num_tokens = sum(len(rows) * width for rows, width in zip(chunks, widths, strict=True))
        shared = behind_prefixes(tokens, tokens.prefixes, at_most=(1 - _LEAST_SAVING) * num_tokens)
        if shared is not None:
            return [RowChunk(*shared)]
    if len(chunks) == 1 and widths[0] == tokens.input_ids.shape[1] and tokens.right_padded:
        return [RowChunk(tokens)]
    columns = tokens.real_tokens_first()
    return [_chunk(tokens, rows, columns[:, :width]) for rows, width in zip(chunks, widths, strict=True)]


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


def _chunk(tokens: TokenBatch, rows: Sequence[int], columns: Tensor) -> RowChunk:
    index = torch.tensor(list(rows), device=tokens.input_ids.device)
    places = index[:, None], columns[index]
    taken = TokenBatch(
        tokens.input_ids[places], tokens.attention_mask[places], tokens.position_ids[places], right_padded=True
    )
    return RowChunk(taken, places)
