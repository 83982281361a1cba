"""Rows that begin alike, such as the K responses to a prompt: their beginning passes through the transformer once.

The prefix leaves its keys and values, behind which its rows go on. Each token attends to the same tokens from the same
place as in a row of its own, so that hidden states and gradients are those of separate rows.
"""

import inspect
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, PreTrainedModel

from lightning_rlhf.batches import Prefixes, SharedPrefixBatch, TokenBatch

__all__ = ["call_behind_prefixes", "shared_prefixes"]

_LEAST_SAVING = 0.2
"""Of the tokens: two passes of fewer tokens take longer than one where little is shared."""
_ATTENTION = (None, "eager", "sdpa")


def shared_prefixes(
    model: PreTrainedModel, tokens: TokenBatch, prefixes: Prefixes | None
) -> TokenBatch | SharedPrefixBatch:
    """The rows behind their prefixes, or as they are where that would hardly spare anything or cannot be done.

    Args:
        model: the transformer that they are for.
        tokens: `(rows, T)`, right-padded, one document per row.
        prefixes: which rows begin alike; None: none.
    """
    if prefixes is None or not _goes_on_behind_a_cache(model):
        return tokens
    lengths, owners = tokens.attention_mask.sum(-1), prefixes.of_row
    num_prefixes = int(owners[-1]) + 1
    longest, shortest = int(prefixes.lengths.max()), int(prefixes.lengths.min())
    rest = int((lengths - prefixes.lengths).max())
    num_passed = num_prefixes * longest + len(lengths) * rest
    if shortest < 1 or num_passed > (1 - _LEAST_SAVING) * tokens.input_ids.numel():
        return tokens
    device = tokens.input_ids.device
    first_rows = torch.searchsorted(owners, torch.arange(num_prefixes, device=device))
    before = torch.arange(longest, device=device) - (longest - prefixes.lengths[first_rows])[:, None]
    after = torch.arange(rest, device=device) + prefixes.lengths[:, None]
    return SharedPrefixBatch(
        prefixes=_gathered(TokenBatch(*(part[first_rows] for part in tokens[:3])), before, before >= 0),
        rows=_gathered(tokens, after, after < lengths[:, None]),
        prefix_of_row=owners,
    )


def _goes_on_behind_a_cache(model: PreTrainedModel) -> bool:
    """Whether a transformer can go on behind the keys and values of another pass, with gradients.

    Not one that carries a state; nor while activations are recomputed, which leaves no cache; nor where weights are
    sharded: whether it pays is for each process to say, and all have to gather them together.
    """
    return (
        {"position_ids", "past_key_values", "use_cache"} <= set(inspect.signature(model.forward).parameters)
        and not getattr(model, "_is_stateful", False)
        and model.config._attn_implementation in _ATTENTION
        and not any("_gradient_checkpointing_func" in vars(module) for module in model.modules())
        and not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    )


def call_behind_prefixes(model: PreTrainedModel, batch: SharedPrefixBatch) -> Any:
    """The model's own output for the rows, less their prefixes.

    Args:
        model: one that `shared_prefixes` has made the batch for.
        batch: prefixes and rows.
    """
    prefixes, rows, owners = batch
    cache = model(
        input_ids=prefixes.input_ids,
        attention_mask=prefixes.attention_mask.long(),
        position_ids=prefixes.position_ids,
        past_key_values=DynamicCache(),
        use_cache=True,
    ).past_key_values
    for layer in cast(list[Any], cache.layers):
        # not the cache's own method: the backward pass of its indexing adds up one number after the other
        layer.keys, layer.values = (part.index_select(0, owners) for part in (layer.keys, layer.values))
    return model(
        input_ids=rows.input_ids,
        attention_mask=torch.cat([prefixes.attention_mask[owners], rows.attention_mask], dim=1).long(),
        position_ids=rows.position_ids,
        past_key_values=cache,
        use_cache=True,
    )


def _gathered(tokens: TokenBatch, places: Tensor, real: Tensor) -> TokenBatch:
    """The tokens at these places, 0 where there is none."""
    places = places.clamp(0, tokens.input_ids.shape[1] - 1)
    return TokenBatch(
        input_ids=tokens.input_ids.gather(1, places).masked_fill(~real, 0),
        attention_mask=real,
        position_ids=tokens.position_ids.gather(1, places).masked_fill(~real, 0),
    )
