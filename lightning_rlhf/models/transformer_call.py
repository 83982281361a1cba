"""One forward pass of a transformers model over a `TokenBatch`, with its memory options."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.adapters import active_adapter, using_adapter
from lightning_rlhf.models.dropout import evaluation_mode
from lightning_rlhf.models.last_block import reading_only
from lightning_rlhf.models.memory_saving import recomputed_modules

__all__ = ["call_transformer", "enable_gradient_checkpointing", "looks_ahead", "require_packing", "takes"]

_MODE = "_lightning_rlhf_mode"
_SAME, _SAME_IN_HALF_PRECISION = 1e-4, 1e-2
"""Of the greatest logit: what is masked out may change the last digits, if anything."""


def call_transformer(model: PreTrainedModel, tokens: TokenBatch, keep: Tensor | None = None) -> Any:
    """The model's own output for a batch of rows; no key-value cache.

    Position ids come from the batch, so that padding does not move a row (rule 8); packed rows attend inside their own
    document only (rule 11). Padding on the right is out of the sight of causal attention, so that it is not masked:
    without a mask attention takes its faster kernels, and holds no `T x T` mask per row.

    Args:
        model: a causal language model or a headless transformer.
        tokens: the rows.
        keep: bool `(B, T)`, True where the output is read, right there alone; None: everywhere.

    Raises:
        ModelError: packed rows and a model that cannot keep their documents apart.
    """
    inputs: dict[str, Any] = {"input_ids": tokens.input_ids, "use_cache": False}
    if takes(model, "position_ids"):
        inputs["position_ids"] = tokens.position_ids
    if tokens.segment_ids is None:
        hides_padding = tokens.right_padded and looks_ahead(model) is False
        mask = torch.ones_like(tokens.attention_mask) if hides_padding else tokens.attention_mask
        inputs["attention_mask"] = mask.long()
    else:
        _check_packing(model)
        inputs["attention_mask"] = _packing_mask(model, tokens.attention_mask, tokens.segment_ids)
    with _recomputing(model), reading_only(model, keep):
        return model(**inputs)


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Makes the transformers in a model recompute activations in the backward pass: less memory, a third more time.

    It is active only inside `LanguageModel` and `ScalarModel` calls that record gradients, so that generation keeps its
    cache. The recomputation runs under the adapter that was active in the forward pass, not under the one that happens
    to be active during backward.

    Args:
        model: a transformers model, or a module that holds some.

    Raises:
        ModelError: a transformer in it does not offer gradient checkpointing.
    """
    for transformer in _outermost_transformers(model):
        if not transformer.supports_gradient_checkpointing:
            raise ModelError(
                f"gradient_checkpointing must be off for {type(transformer).__name__}, which lacks it, got true."
            )
        for module in transformer.modules():
            if hasattr(module, "gradient_checkpointing"):
                # transformers' own protocol; its enabling method was renamed in 5.23, and the old name warns
                module._gradient_checkpointing_func = partial(_checkpointed, transformer, module)  # type: ignore[assignment]


def _outermost_transformers(model: nn.Module) -> Iterator[PreTrainedModel]:
    if isinstance(model, PreTrainedModel):
        yield model
    else:
        for child in model.children():
            yield from _outermost_transformers(child)


@contextmanager
def _recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Switches checkpointing on for one call, if it was enabled and gradients are recorded."""
    modules = recomputed_modules(model) if torch.is_grad_enabled() else []
    # transformers checkpoints blocks in training mode only, and loaded models are in evaluation mode
    blocks = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
    for block in blocks:
        block.__dict__[_MODE] = block.training
        block.training = True
    for module in modules:
        module.gradient_checkpointing = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        for block in blocks:
            block.training = block.__dict__.pop(_MODE)


def _checkpointed(transformer: PreTrainedModel, block: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """Runs a block so that the backward pass computes it again, in the mode that it has outside."""
    block.training = block.__dict__.get(_MODE, block.training)
    return checkpoint(function, *args, use_reentrant=False, context_fn=partial(_recompute_contexts, transformer))


def _recompute_contexts(model: PreTrainedModel) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the forward pass and of its recomputation, as `torch.utils.checkpoint` asks for them."""
    adapter = active_adapter(model)
    return nullcontext(), nullcontext() if adapter is None else using_adapter(model, adapter)


def looks_ahead(model: nn.Module) -> bool | None:
    """Whether attention in a model says that it sees later tokens; None where none of it says anything.

    Args:
        model: a causal language model or a headless transformer.
    """
    said = [bool(vars(module)["is_causal"]) for module in model.modules() if "is_causal" in vars(module)]
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    # a config's word overrides that of the modules
    if not all(said) or any(getattr(config, "is_causal", True) is False for config in configs):
        return True
    return False if said else None


def takes(model: nn.Module, *names: str) -> bool:
    """Whether a model's forward pass has these arguments.

    Args:
        model: a causal language model or a headless transformer.
        names: of the arguments.
    """
    return _arguments_of(type(model).forward).issuperset(names)


@cache
def _arguments_of(forward: Callable[..., Any]) -> frozenset[str]:
    """Kept, because every call of a model asks, and a signature takes a millisecond to read."""
    return frozenset(inspect.signature(forward).parameters)


@torch.no_grad()
def require_packing(model: PreTrainedModel) -> None:
    """Makes sure, with a row of two documents, that a model keeps the documents of a packed row apart.

    Some do not: they make their masks without position ids, or mix neighbours by a convolution. To be called before
    weights are sharded.

    Args:
        model: a causal language model, with or without adapters.

    Raises:
        ModelError: it does not.
    """
    _check_packing(model)
    first, second = [[1, 2, 1, 2], [3, 0, 0, 3]], [1, 3, 0, 2, 1, 3]
    ids = torch.tensor([[*document, *second] for document in first], device=model.device)
    lengths = torch.tensor([len(first[0]), len(second)], device=model.device)
    segments = torch.arange(2, device=model.device).repeat_interleave(lengths).expand(2, -1)
    starts = torch.tensor([0, len(first[0])], device=model.device).repeat_interleave(lengths)
    positions = (torch.arange(ids.shape[1], device=model.device) - starts).expand(2, -1)
    tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), positions, segments)
    try:
        with evaluation_mode(model):
            one, other = call_transformer(model, tokens).logits[:, len(first[0]) :].float()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture says to a mask of its own shape: ALiBi wants a flat one
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise ModelError(
            f"packed rows must be readable by the model, got {type(model).__name__}, which fails on them "
            f"({type(error).__name__}: {reason}). Set packing to false."
        ) from error
    tolerance = _SAME if model.dtype == torch.float32 else _SAME_IN_HALF_PRECISION
    if float((one - other).abs().max()) > tolerance * float(one.abs().max()):
        raise ModelError(
            f"packed rows must be kept apart by the model, got {type(model).__name__}, in which a document changes "
            "the next one. Set packing to false."
        )


def _check_packing(model: PreTrainedModel) -> None:
    attention = model.config._attn_implementation
    if not takes(model, "position_ids") or getattr(model, "_is_stateful", False):
        raise ModelError(
            f"packed rows must be kept apart by the model, got {type(model).__name__}, which cannot. "
            "Set packing to false."
        )
    if attention not in (None, "eager", "sdpa"):
        raise ModelError(
            f"packed rows must be read with eager or sdpa attention, got {attention!r}. Set packing to false, or "
            "load the model with another attn_implementation."
        )


def _packing_mask(model: PreTrainedModel, attention_mask: Tensor, segment_ids: Tensor) -> Tensor | None:
    """A causal, block-diagonal mask `(B, 1, T, T)`; None where transformers has to make it.

    Sliding windows need a mask per kind of layer: there transformers makes them from position ids that restart, if it
    is given no mask. Not every architecture does that (OPT attends across), so that others get theirs ready-made.
    """
    if _has_sliding_windows(model):
        return None
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & attention_mask[:, None, :] & causal
    mask |= torch.eye(length, dtype=torch.bool, device=mask.device)  # padding attends to itself: no empty softmax
    mask = mask[:, None]
    if model.config._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)


def _has_sliding_windows(model: PreTrainedModel) -> bool:
    config = model.config
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return getattr(config, "sliding_window", None) is not None
