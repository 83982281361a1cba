"""LoRA adapters (Hu et al. 2021) inside a transformers model: adding, switching, storing.

The layers are injected into the model, which keeps its class: it generates, shards and saves as without adapters.
peft's own `set_adapter` freezes every adapter but the active one, without a word; the functions here keep all of them
trained.
"""

import hashlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.arguments import require_at_least, require_positive
from lightning_rlhf.errors import ConfigError, ModelError
from lightning_rlhf.models.adapter_targets import ALL_LINEAR, chosen_layers, excluded_layers, refused, targets_like

if TYPE_CHECKING:  # it takes half a second to import, which only runs with adapters have to spend
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

__all__ = [
    "LoRA",
    "activate_adapter",
    "active_adapter",
    "adapter_config",
    "adapter_of",
    "adapter_parameters",
    "adapter_state_dict",
    "add_adapter",
    "base_fingerprint",
    "headless",
    "load_adapter_state_dict",
    "named_adapter_layers",
    "named_tensors",
    "output_layer",
    "using_adapter",
    "without_adapters",
    "without_advice",
]

_FINGERPRINT = "_lightning_rlhf_base_fingerprint"
_NUM_SAMPLED = 64
_ADVICE = ("tie_word_embeddings=", "fan_in_fan_out is set", "_pattern keys did not match", "is_gradient_checkpointing")


class LoRA:
    """Settings of a LoRA adapter: low-rank updates of the linear layers are trained, everything else is frozen.

    Args:
        rank: rank of the updates.
        alpha: updates are scaled by alpha / rank.
        target_modules: names of the layers that get an update, or all-linear for all but the output layer; experts
            count where peft knows how to train them. A string that is no name is a regular expression.
        dropout: dropout rate on the adapter's input; must be 0 for reward models and PPO.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        target_modules: str | list[str] = ALL_LINEAR,
        dropout: float = 0.0,
    ) -> None:
        require_at_least(1, of="LoRA", rank=rank)
        require_positive(of="LoRA", alpha=alpha)
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout of LoRA must be at least 0 and below 1, got {dropout}.")
        if not target_modules:
            raise ConfigError("target_modules of LoRA must name at least one layer, got none.")
        self.rank = rank
        self.alpha = alpha
        self.target_modules = target_modules
        self.dropout = dropout


def add_adapter(
    model: PreTrainedModel, settings: "LoRA | LoraConfig", *, name: str = "default", seed: int = 0
) -> PreTrainedModel:
    """Adds an adapter that changes nothing yet, makes it the active one and freezes everything but adapters.

    Args:
        model: changed in place; may hold other adapters, which stay trained.
        settings: rank and layers.
        name: the adapter's name.
        seed: of the random half of the adapter; the global generator is left alone.

    Returns:
        The same model.

    Raises:
        ConfigError: no layer of the model has one of the names in `target_modules`, or peft cannot train it.
    """
    from peft import inject_adapter_in_model

    if getattr(model, _FINGERPRINT, None) is None:
        setattr(model, _FINGERPRINT, base_fingerprint(model))
    before = cast("dict[str, LoraConfig]", model.__dict__.pop("peft_config", {}))
    config = _lora_config(model, settings, next(iter(before.values()), None))
    with torch.random.fork_rng(devices=[]), without_advice():
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model, name)
        except ValueError as error:
            model.__dict__["peft_config"] = before
            raise refused(model, config, error) from error
    model.__dict__["peft_config"] = {**before, name: config}
    activate_adapter(model, name)
    return model


def base_fingerprint(model: PreTrainedModel) -> str:
    """Tells whether two models were loaded from the same weights: a hash of samples of every tensor.

    Heads do not count, so that a language model and a reward model on the same backbone agree. Of a model with
    adapters: of the weights below them, as they were when the first adapter was added.
    """
    stored = getattr(model, _FINGERPRINT, None)
    if stored is not None:
        return str(stored)
    digest = hashlib.sha256()
    for name, parameter in sorted((headless(model) or model).named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _NUM_SAMPLED)].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()


def output_layer(model: PreTrainedModel) -> nn.Module | None:
    """What projects to the vocabulary; None for a headless transformer."""
    return cast("nn.Module | None", model.get_output_embeddings())  # type: ignore[no-untyped-call]


def headless(model: PreTrainedModel) -> PreTrainedModel | None:
    """The transformer below a language model's output layer; None where there is none apart from it."""
    backbone = cast(PreTrainedModel, model.base_model)
    if backbone is not model:
        return backbone
    # some classes, such as Llama 4's, name another attribute than the one that holds it
    inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return inside[0] if len(inside) == 1 else None


def activate_adapter(model: nn.Module, name: str) -> None:
    """Makes the model run with an adapter; every adapter stays trained."""
    for layer in _adapter_layers(model):
        layer.set_adapter(name)
    for key, parameter in model.named_parameters():
        if adapter_of(key) is not None:
            parameter.requires_grad_(True)


def active_adapter(model: nn.Module) -> str | None:
    """Name of the adapter that the model runs with; None: it has none, or they are off."""
    for layer in _adapter_layers(model):
        return None if layer.disable_adapters else str(layer.active_adapters[0])
    return None


def adapter_config(model: PreTrainedModel, name: str) -> "LoraConfig":
    """Settings, as peft keeps them, of an adapter that the model holds."""
    return cast("dict[str, LoraConfig]", model.peft_config)[name]


def adapter_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The weights of one adapter."""
    return [parameter for key, parameter in model.named_parameters() if adapter_of(key) == name]


@contextmanager
def using_adapter(model: nn.Module, name: str) -> Iterator[None]:
    """Runs the model with another adapter inside."""
    before = active_adapter(model)
    if before == name:
        yield
        return
    activate_adapter(model, name)
    try:
        yield
    finally:
        if before is not None:
            activate_adapter(model, before)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Runs the model that the adapters were added to inside."""
    layers = [layer for layer in _adapter_layers(model) if not layer.disable_adapters]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter in trained:
            parameter.requires_grad_(True)


def adapter_state_dict(model: PreTrainedModel, name: str) -> dict[str, Tensor]:
    """One adapter's weights under peft's names of files: `base_model.model.<layer>.lora_A.weight`.

    The names are those of the model with a head, for a headless backbone as well, so that the files fit both.
    """
    prefix = "" if headless(model) is not None else f"{model.base_model_prefix}."
    return {
        f"base_model.model.{prefix}{_without_adapter_name(key, name)}": tensor
        for key, tensor in named_tensors(model)
        if adapter_of(key) == name
    }


def load_adapter_state_dict(model: PreTrainedModel, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Puts weights under peft's names of files into an adapter.

    Raises:
        ModelError: the tensors are not those of this adapter on this model.
    """
    own = {key: parameter for key, parameter in model.named_parameters() if adapter_of(key) == name}
    wanted = dict(zip(adapter_state_dict(model, name), own.values(), strict=True))
    if wanted.keys() != tensors.keys() or any(wanted[key].shape != tensors[key].shape for key in wanted):
        raise ModelError(f"the tensors of adapter {name!r} must fit the layers of {type(model).__name__}, got others.")
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` holds, read from the modules: under FSDP2 its hook would shard gathered weights again.

    What stands under several names is one object.
    """
    detached: dict[int, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False):
            yield dot + name, detached.setdefault(id(parameter), parameter.detach())
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield dot + name, buffer


def _lora_config(model: PreTrainedModel, settings: "LoRA | LoraConfig", first: "LoraConfig | None") -> "LoraConfig":
    """Settings as peft wants them; `first` are those of an adapter that the model has."""
    from peft import LoraConfig

    if isinstance(settings, LoraConfig):
        return settings
    targets = chosen_layers(settings.target_modules)
    is_everything = targets == ALL_LINEAR
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules=targets,
        exclude_modules=excluded_layers(model) if is_everything and first is None else None,
        lora_dropout=settings.dropout,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        base_model_name_or_path=model.name_or_path or None,
        task_type="CAUSAL_LM" if output_layer(model) is not None else None,
    )
    if is_everything and first is not None:
        targets_like(first, config)
    return config


@contextmanager
def without_advice() -> Iterator[None]:
    """Keeps back what peft advises about what is taken care of here: tied and transposed layers, its own patterns."""
    with warnings.catch_warnings():
        for text in _ADVICE:
            warnings.filterwarnings("ignore", message=f".*{text}")
        yield


def named_adapter_layers(model: nn.Module) -> "list[tuple[str, BaseTunerLayer]]":
    """The layers that adapters are on; of a module several of whose tensors have one, a layer around a layer."""
    return [(name, module) for name, module in model.named_modules() if _is_adapted(module)]


def _adapter_layers(model: nn.Module) -> "list[BaseTunerLayer]":
    return [layer for _, layer in named_adapter_layers(model)]


def _is_adapted(module: nn.Module) -> "TypeGuard[BaseTunerLayer]":
    tuners = sys.modules.get("peft.tuners.tuners_utils")  # while peft is not loaded, no layer can be one of its
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def _without_adapter_name(key: str, name: str) -> str:
    """A linear layer's `lora_A.<name>.weight` and an embedding's `lora_embedding_A.<name>` as files call them."""
    return re.sub(rf"(\.lora_(?:embedding_)?[AB])\.{re.escape(name)}(?=\.|$)", r"\1", key)


def adapter_of(key: str) -> str | None:
    """The adapter that a parameter belongs to; None: to the model below."""
    match = re.search(r"\.lora_(?:A|B)\.([^.]+)\.|\.lora_embedding_(?:A|B)\.([^.]+)$", key)
    return None if match is None else match[1] or match[2]
