"""A training step of a model with adapters, tried before a run reads, samples or learns anything."""

import logging

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models.adapters import (
    adapter_config,
    adapter_of,
    named_adapter_layers,
    using_adapter,
    without_adapters,
)
from lightning_rlhf.models.transformer_call import call_transformer

__all__ = ["require_trainable_adapters"]

_log = logging.getLogger(__name__)

_NUM_TOKENS = 4


def require_trainable_adapters(model: nn.Module) -> None:
    """Passes a few tokens forward and backward under each adapter; weights, gradients and generators stay as they are.

    Args:
        model: a transformer, or a module that holds some; those without adapters are passed over.

    Raises:
        ConfigError: the pass fails, or no gradient reaches an adapter.
    """
    for transformer in model.modules():
        if isinstance(transformer, PreTrainedModel):
            for name in vars(transformer).get("peft_config", {}):
                with using_adapter(transformer, name):
                    _require_step(transformer, name)


def _require_step(model: PreTrainedModel, name: str) -> None:
    kind = type(model).__name__
    named = [(key, parameter) for key, parameter in model.named_parameters() if adapter_of(key) == name]
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    try:
        gradients = _gradients(model, [parameter for _, parameter in named])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a layer says to inputs or outputs that it does not know
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        misfits = _layers_without_tensor(model)
        advice = f"Leave out {', '.join(misfits)}" if misfits else "Name other layers"
        raise ConfigError(
            f"target_modules of LoRA must name layers that {kind} can be trained with, got {_targets(model, name)}, "
            f"with which a step fails ({type(error).__name__}: {reason}). {advice}."
        ) from error
    reached = {_layer(key) for (key, _), gradient in zip(named, gradients, strict=True) if gradient is not None}
    idle = sorted({_layer(key) for key, _ in named} - reached)
    if not reached:
        raise ConfigError(
            f"target_modules of LoRA must name layers whose outputs {kind} uses, got {_targets(model, name)}: no "
            "gradient reaches them."
        )
    if idle:
        _log.warning("LoRA on %s of %s learns nothing: no gradient reaches these layers.", ", ".join(idle), kind)


def _gradients(model: PreTrainedModel, weights: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    device = weights[0].device
    ids = torch.arange(_NUM_TOKENS, device=device)[None] % model.config.get_text_config().vocab_size
    tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(_NUM_TOKENS, device=device)[None])
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        output: Tensor = call_transformer(model, tokens)[0]  # logits, or the last hidden states
        if not output.requires_grad:
            return (None,) * len(weights)
        return torch.autograd.grad(output.float().pow(2).sum(), weights, allow_unused=True)


def _layers_without_tensor(model: PreTrainedModel) -> list[str]:
    """Layers under adapters that give something else than a tensor, such as the choices of a router."""
    misfits: set[str] = set()
    handles = []
    for key, layer in named_adapter_layers(model):
        leaf = key.rpartition(".")[2]

        def look(module: nn.Module, args: object, output: object, leaf: str = leaf) -> None:
            if not isinstance(output, Tensor):
                misfits.add(leaf)

        handles.append(layer.get_base_layer().register_forward_hook(look))
    try:
        with torch.no_grad(), without_adapters(model):
            _try_forward(model)
    finally:
        for handle in handles:
            handle.remove()
    return sorted(misfits)


def _try_forward(model: PreTrainedModel) -> None:
    device = next(model.parameters()).device
    model(input_ids=torch.zeros(1, _NUM_TOKENS, dtype=torch.int64, device=device))


def _layer(key: str) -> str:
    """The name of the layer that an adapter's weight belongs to, without its place in the model."""
    return key.partition(".lora_")[0].replace(".base_layer", "").rpartition(".")[2]


def _targets(model: PreTrainedModel, name: str) -> str:
    config = adapter_config(model, name)
    given = config.target_modules
    names = {given} if isinstance(given, str) else {*(given or ()), *(config.target_parameters or ())}
    return ", ".join(sorted({target.rpartition(".")[2] or target for target in names}))
