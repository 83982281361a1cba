"""The layers that an adapter is put on: those that were named, or all linear ones that can be trained so."""

import copy
import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.errors import ConfigError

if TYPE_CHECKING:  # it takes half a second to import, which only runs with adapters have to spend
    from peft import LoraConfig

__all__ = ["ALL_LINEAR", "chosen_layers", "excluded_layers", "refused", "targets_like"]

ALL_LINEAR = "all-linear"
_NAMES = re.compile(r"[\w.-]+(\s*,\s*[\w.-]+)*")
_FUSED = ("conv1d", "dt_proj", "out_proj", "x_proj")
"""Layers whose weights a state-space mixer hands to one kernel, past any adapter."""


def chosen_layers(target_modules: str | list[str]) -> str | list[str]:
    """The names in a list; a string that holds more than names is a regular expression, as peft has it.

    Args:
        target_modules: names, one name, names with commas between, a regular expression, or all-linear.
    """
    if isinstance(target_modules, str) and target_modules != ALL_LINEAR and _NAMES.fullmatch(target_modules):
        return [name.strip() for name in target_modules.split(",")]
    return target_modules


def excluded_layers(model: PreTrainedModel) -> list[str] | None:
    """Layers that all-linear leaves out, although they are linear; None: there are none.

    Routers that are linear layers by class return more than a projection, and some kernels take weights, not layers.
    """
    parents = dict(model.named_modules())
    left_out = []
    for name, module in model.named_modules():
        if is_linear(module):
            parent, _, leaf = name.rpartition(".")
            if (leaf in _FUSED and _is_state_space_mixer(parents[parent])) or not _projects(module):
                left_out.append(name)
    return left_out or None


def targets_like(first: "LoraConfig", config: "LoraConfig") -> None:
    """Puts an adapter on the layers of another one: on a model with adapters nothing is plainly linear any more.

    Args:
        first: of the adapter that is there.
        config: changed in place.
    """
    config.target_modules = copy.copy(first.target_modules)
    config.exclude_modules = copy.copy(first.exclude_modules)
    config.target_parameters = copy.copy(first.target_parameters)
    # of fused experts peft multiplies the rank by the number of layers in one tensor
    config.rank_pattern = {name: rank * config.r // first.r for name, rank in (first.rank_pattern or {}).items()}
    scale = config.lora_alpha / first.lora_alpha
    config.alpha_pattern = {name: alpha * scale for name, alpha in (first.alpha_pattern or {}).items()}


def refused(model: PreTrainedModel, config: "LoraConfig", error: ValueError) -> ConfigError:
    """What is wrong with the layers, where peft refuses them."""
    targets = config.target_modules
    given = targets if isinstance(targets, str) else sorted(targets or ())
    kind = type(model).__name__
    if "not found in the base model" not in str(error):
        reason = " ".join(re.sub(r"\[PEFT:[\w.]+\] ", "", str(error)).split()).rstrip(".")
        return ConfigError(
            f"target_modules of LoRA must be layers of {kind} that peft can train, got {given!r}: {reason}."
        )
    names = [name for name, module in model.named_modules() if is_linear(module) and "lora_" not in name]
    plain = {re.sub(r"\.base_layer$", "", name).rpartition(".")[2] for name in names}
    expression = " A string with other characters is a regular expression that matches whole names, such as "
    hint = f"{expression}.*\\.{min(plain)}." if isinstance(given, str) and plain else ""
    return ConfigError(
        f"target_modules of LoRA must name layers of {kind}, got {given!r}. "
        f"Its linear layers are {', '.join(sorted(plain))}.{hint}"
    )


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of torch or transformers, or of a class made from one."""
    return isinstance(module, nn.Linear | Conv1D)


def _is_state_space_mixer(module: nn.Module) -> bool:
    return hasattr(module, "A_log") and hasattr(module, "D")


def _projects(layer: nn.Module) -> bool:
    """Whether a layer of a class made from a linear one still maps `(1, in)` to `(1, out)`."""
    if type(layer) in (nn.Linear, Conv1D) or not isinstance(layer, nn.Linear):
        return True
    zeros = torch.zeros(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = layer(zeros)
    except Exception:  # it wants other inputs, and so is something else
        return False
    return isinstance(found, Tensor) and found.shape == (1, layer.out_features)
