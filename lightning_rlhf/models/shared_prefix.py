"""Rows that begin alike, such as the K responses to a prompt: their beginning passes through the transformer once.

The prefix leaves its keys and values, behind which its rows go on. Each token attends to the same tokens from the same
place as in a row of its own, so that hidden states and gradients are those of separate rows.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lightning_rlhf.batches import Prefixes, SharedPrefixBatch, TokenBatch
from lightning_rlhf.models.last_block import reading_keys_and_values_only, reading_only
from lightning_rlhf.models.memory_saving import is_sharded, recomputed_modules
from lightning_rlhf.models.transformer_call import looks_ahead, takes

__all__ = ["BehindPrefixes", "behind_prefixes", "call_behind", "goes_on_behind_a_cache", "prefix_cache"]

_ATTENTION = (None, "eager", "sdpa")


class BehindPrefixes(NamedTuple):
    """A batch behind its prefixes."""

    tokens: SharedPrefixBatch
    places: tuple[Tensor, Tensor]
    """Which row and which column of the batch the tokens of `tokens.rows` are from."""


def behind_prefixes(tokens: TokenBatch, prefixes: Prefixes, *, at_most: float) -> BehindPrefixes | None:
    """The rows behind what they share; None where that passes too many tokens, or one of them shares nothing.

    Args:
        tokens: `(rows, T)`, padded on either side, one document per row.
        prefixes: which of them begin alike.
        at_most: tokens, with their padding, that prefixes and rows may be.
    """
    lengths, owners = tokens.attention_mask.sum(-1), prefixes.of_row
    num_prefixes = int(owners[-1]) + 1
    longest, shortest = int(prefixes.lengths.max()), int(prefixes.lengths.min())
    rest = int((lengths - prefixes.lengths).max())
    if shortest < 1 or num_prefixes * longest + len(lengths) * rest > at_most:
        return None
    device = tokens.input_ids.device
    first_rows = torch.searchsorted(owners, torch.arange(num_prefixes, device=device))
    before = torch.arange(longest, device=device) - (longest - prefixes.lengths[first_rows])[:, None]
    after = torch.arange(rest, device=device) + prefixes.lengths[:, None]
    columns = tokens.real_tokens_first()
    last = columns.shape[1] - 1
    heads = first_rows[:, None], columns[first_rows].gather(1, before.clamp(0, last))
    places = torch.arange(len(lengths), device=device)[:, None], columns.gather(1, after.clamp(0, last))
    batch = SharedPrefixBatch(
        prefixes=_taken(tokens, heads, before >= 0),
        rows=_taken(tokens, places, after < lengths[:, None]),
        prefix_of_row=owners,
    )
    return BehindPrefixes(batch, places)


def goes_on_behind_a_cache(model: PreTrainedModel) -> bool:
    """Whether a transformer can go on behind the keys and values of another pass, with gradients.

    Not one that carries a state, or whose cache holds anything but keys and values; nor where a prefix would see what
    follows it; nor while activations are recomputed, which leaves no cache; nor where weights are
    sharded: whether it pays is for each process to say, and all have to gather them together.
    """
    return (
        takes(model, "position_ids", "past_key_values", "use_cache")
        and not getattr(model, "_is_stateful", False)
        and not looks_ahead(model)
        and _keeps_keys_and_values_alone(model)
        and model.config._attn_implementation in _ATTENTION
        and not recomputed_modules(model)
        and not is_sharded(model)
    )


def _keeps_keys_and_values_alone(model: PreTrainedModel) -> bool:
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def prefix_cache(model: PreTrainedModel, batch: SharedPrefixBatch) -> DynamicCache:
    """The keys and values of the prefixes, one entry per row; gradients flow.

    Args:
        model: one that `goes_on_behind_a_cache`.
        batch: prefixes and rows.
    """
    prefixes, _, owners = batch
    with reading_keys_and_values_only(model, prefixes.input_ids):
        cache: DynamicCache = model(
            input_ids=prefixes.input_ids,
            attention_mask=prefixes.attention_mask.long(),
            position_ids=prefixes.position_ids,
            past_key_values=DynamicCache(),
            use_cache=True,
        ).past_key_values
    for layer in cast(list[Any], cache.layers):
        # not the cache's own method: the backward pass of its indexing adds up one number after the other
        layer.keys, layer.values = (part.index_select(0, owners) for part in (layer.keys, layer.values))
    return cache


def call_behind(
    model: PreTrainedModel, batch: SharedPrefixBatch, cache: DynamicCache, keep: Tensor | None = None
) -> Any:
    """The model's own output for the rows, less their prefixes.

    Args:
        model: the one that the cache is of.
        batch: prefixes and rows.
        cache: of the prefixes; used up.
        keep: bool, of the rows' shape, True where the output is read, right there alone; None: everywhere.
    """
    rows = batch.rows
    mask = torch.cat([batch.prefixes.attention_mask[batch.prefix_of_row], rows.attention_mask], 1)
    with reading_only(model, keep):
        return model(
            input_ids=rows.input_ids,
            attention_mask=mask.long(),
            position_ids=rows.position_ids,
            past_key_values=cache,
            use_cache=True,
        )


def _taken(tokens: TokenBatch, places: tuple[Tensor, Tensor], real: Tensor) -> TokenBatch:
    """The tokens at these places, 0 where there is none."""
    return TokenBatch(
        input_ids=tokens.input_ids[places].masked_fill(~real, 0),
        attention_mask=real,
        position_ids=tokens.position_ids[places].masked_fill(~real, 0),
    )
