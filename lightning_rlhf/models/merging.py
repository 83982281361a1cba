"""The weights of a model with its adapter added in, and transformers' own model around them.

Models hold tensors under several names: an output layer is often the embedding itself, and an adapter can repeat layers
with shared weights. An adapter changes such a tensor under one of its names alone. Whatever is merged, each name keeps
what the model computed under it: names that differ afterwards are written apart.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.adapters import active_adapter, adapter_of, named_adapter_layers, named_tensors

__all__ = ["merged_state_dict", "require_savable", "separate_shared_tensors", "tie_equal_tensors", "whole_model"]

_WRAPPED = ".base_layer"


def merged_state_dict(model: PreTrainedModel, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """The weights with the active adapter added in, under the names of the model without adapters.

    The model itself is not touched: adding and subtracting an update would leave rounding errors in training. Names
    that share a tensor get one object, unless the adapter has changed what one of them stands for.

    Args:
        model: with or without adapters.
        shapes_only: the tensors are on the meta device, where they take no memory.
    """
    name = active_adapter(model)
    layers = dict(named_adapter_layers(model))
    merged: dict[str, Tensor] = {}
    shapes: dict[int, Tensor] = {}
    for key, tensor in named_tensors(model):
        if adapter_of(key) is not None:
            continue
        plain, wrappers = _unwrapped_name(key, layers)
        whole = tensor
        for layer, leaf in wrappers:
            if leaf == getattr(layer, "parameter_name", "weight") and _has_adapter(layer, name):
                whole = (tensor.float() + layer.get_delta_weight(name).float()).to(tensor.dtype)
        if shapes_only:
            whole = shapes.setdefault(id(tensor), tensor.to("meta")) if whole is tensor else whole.to("meta")
        merged[plain] = whole
    return merged


def whole_model(
    kind: type[PreTrainedModel], config: PreTrainedConfig, tensors: Mapping[str, Tensor]
) -> PreTrainedModel:
    """A model of transformers around weights, without copying them: it knows how to write itself.

    Its config says that embeddings are tied only where the tensors are the same.

    Args:
        kind: its class.
        config: left as it is.
        tensors: as `merged_state_dict` gives them.

    Raises:
        ModelError: the class has other weights, or cannot hold them apart.
    """
    config = copy.deepcopy(config)
    model = _empty(kind, config)
    if not all(_same(tensors, *pair) for pair in _tied(model).items()):
        _untie(config)
        model = _empty(kind, config)
    if apart := [name for name, source in _tied(model).items() if not _same(tensors, name, source)]:
        raise ModelError(
            f"{kind.__name__} must keep {apart[0]} the same as the tensor that it is tied to, got an adapter on one of "
            "them. Leave that layer out of target_modules."
        )
    try:
        model.load_state_dict(_with_own_tensors(tensors, _tied(model)), assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"what was trained must have the weights of a {kind.__name__}, got others: {' '.join(str(error).split())}"
        ) from error
    model.tie_weights()
    return model


def require_savable(model: PreTrainedModel) -> None:
    """Tries all of saving a model but the writing.

    Args:
        model: from `whole_model`, of tensors that may be on the meta device.

    Raises:
        ModelError: it could not be saved.
    """
    try:
        revert_weight_conversion(model, model.state_dict())
        model.config.to_json_string()
    except Exception as error:  # conversions of some fifty architectures raise kinds of their own
        raise ModelError(
            f"{type(model).__name__} must be one that transformers can save, got {type(error).__name__}: {error}"
        ) from error


def separate_shared_tensors(model: nn.Module) -> None:
    """Gives every name a tensor of its own: merging changes tensors in place, under all their names at once."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                module.register_parameter(name, own)
                parameter = own
            seen.add(id(parameter))


def tie_equal_tensors(model: PreTrainedModel) -> None:
    """Ties what the config calls tied, if it is equal; else has the config say that it is not."""
    tensors = dict(named_tensors(model))
    if all(_same(tensors, *pair) for pair in _tied(model).items()):
        model.tie_weights()
    else:
        _untie(model.config)
        model.all_tied_weights_keys = _tied(model)


def _unwrapped_name(key: str, layers: Mapping[str, Any]) -> tuple[str, list[tuple[Any, str]]]:
    """A tensor's name in the model without adapters, and the wrappers around it, each with the tensor's name inside.

    Wrappers around one module, each for another of its tensors, are nested.
    """
    wrappers = []
    for match in re.finditer(re.escape(_WRAPPED) + r"(?=\.)", key):
        if (layer := layers.get(key[: match.start()])) is not None:
            wrappers.append((layer, match.end() + 1))
    if not wrappers:
        return key, []
    leaf = key[wrappers[-1][1] :]
    outermost = key[: wrappers[0][1]].removesuffix(f"{_WRAPPED}.")
    return f"{outermost}.{leaf}", [(layer, leaf) for layer, _ in wrappers]


def _has_adapter(layer: Any, name: str | None) -> bool:
    return name in layer.lora_A or name in layer.lora_embedding_A


def _empty(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return kind(config)


def _tied(model: PreTrainedModel) -> dict[str, str]:
    """The names that the config ties, each with the one that it is tied to."""
    return dict(model.get_expanded_tied_weights_keys(all_submodels=True))


def _untie(config: PreTrainedConfig) -> None:
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False


def _same(tensors: Mapping[str, Tensor], name: str, source: str) -> bool:
    if name not in tensors or source not in tensors or tensors[name] is tensors[source]:
        return True
    return not tensors[name].is_meta and torch.equal(tensors[name], tensors[source])


def _with_own_tensors(tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Copies what stands under several names that are not tied: files hold no tensor twice."""
    seen: set[int] = set()
    own = {}
    for name, tensor in _sources_first(tensors, tied):
        own[name] = tensor.clone() if id(tensor) in seen and name not in tied else tensor
        seen.add(id(tensor))
    return own


def _sources_first(tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, tensor) for name, tensor in tensors.items() if name not in tied)
    yield from ((name, tensor) for name, tensor in tensors.items() if name in tied)
