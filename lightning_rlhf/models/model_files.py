"""What is read of a model's files: tensors, settings and text. No pickle, and no code unless that is asked for."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from lightning_rlhf.errors import ModelError

__all__ = [
    "HOW_TO_CONVERT",
    "cached_model_file",
    "read_adapter_config",
    "read_config",
    "read_json",
    "require_safe_adapter",
    "require_whole_model",
]

HOW_TO_CONVERT = (
    "If you trust the file, convert it once with transformers: load it with from_pretrained and write it with "
    "save_pretrained."
)
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_SAFE_ADAPTER = "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.ckpt", "*.pkl", "*.pt", "*.pth")
_KERNELS = ("_attn_implementation_internal", "_experts_implementation_internal")
"""Where a config keeps what computes attention; `owner/name` is fetched from the hub and executed."""
_MERGEABLE = ("ADALORA", "BOFT", "HRA", "IA3", "LOHA", "LOKR", "LORA", "OFT", "VERA")
"""Kinds of adapter that are tensors and numbers alone; others (XLORA, SHADOW, prompts) name further things to load."""


def read_config(name: str, *, trust_remote_code: bool) -> PreTrainedConfig:
    """The config of a model directory or hub id, and no model yet.

    Args:
        name: of the directory or on the hub.
        trust_remote_code: code that the files name may run.

    Raises:
        ModelError: it names code, or a directory's weights are pickles or lie outside of it.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    for kernel in _kernels(config):
        if "/" in kernel and not trust_remote_code:
            raise ModelError(
                f"the config of {name!r} must name a kind of attention that transformers has, got {kernel!r}, code on "
                "the hub. Read it, and set trust_remote_code to true to run it."
            )
    _refuse_pickles(Path(name), _SAFE_WEIGHTS)
    _refuse_files_elsewhere(name)
    return config


def require_whole_model(name: str) -> None:
    """Refuses a reward model that is an adapter: its base would be loaded unseen.

    Raises:
        ModelError: it is.
    """
    if find_adapter_config_file(name) is not None:
        raise ModelError(f"reward model {name!r} must hold whole weights, got an adapter. Merge it into its base.")


def read_adapter_config(name: str, file: str | Path) -> dict[str, Any]:
    """The settings of an adapter that may be loaded.

    Args:
        name: its directory or hub id.
        file: its adapter_config.json.

    Raises:
        ModelError: it names code or further files, or cannot be read.
    """
    settings = _parsed(name, Path(file))
    kind = settings.get("peft_type")
    if kind not in _MERGEABLE:
        raise ModelError(
            f"the adapter in {name!r} must be of a kind that can be merged into its base ({', '.join(_MERGEABLE)}), "
            f"got {kind!r}."
        )
    if settings.get("megatron_config"):
        raise ModelError(
            f"the adapter in {name!r} must be tensors and numbers, got a megatron_config, with which peft imports the "
            "module that `megatron_core` names. Remove both from adapter_config.json."
        )
    return settings


def require_safe_adapter(name: str) -> None:
    """Refuses an adapter whose weights are no safetensors: peft would read a pickle in their place.

    Raises:
        ModelError: they are none.
    """
    if cached_file(name, _SAFE_ADAPTER, _raise_exceptions_for_missing_entries=False) is None:
        _refuse_pickles(Path(name), (_SAFE_ADAPTER,))
        raise ModelError(f"the adapter in {name!r} must have its weights in {_SAFE_ADAPTER}, got none.")


def read_json(name: str, file: str) -> dict[str, Any]:
    """A JSON object of a model directory or hub id; empty when there is no such file.

    Raises:
        ModelError: the file cannot be read.
    """
    path = cached_model_file(name, file)
    return {} if path is None else _parsed(name, path)


def cached_model_file(name: str, file: str) -> Path | None:
    """Where a file of a model directory or hub id lies on this machine; None when there is no such file.

    Raises:
        ModelError: the directory cannot be read.
    """
    try:
        path = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError as error:
        raise ModelError(f"{file} of {name!r} must be readable, got {error}.") from None
    return None if path is None else Path(path)


def _parsed(name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} of {name!r} must be readable JSON, got {error}.") from None
    return found


def _refuse_pickles(folder: Path, wanted: tuple[str, ...]) -> None:
    """Refuses a directory whose weights are pickles only; of a hub id transformers asks for safetensors itself."""
    if not folder.is_dir() or any((folder / file).is_file() for file in wanted):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"the weights in {str(folder)!r} must be safetensors, got {', '.join(pickles[:3])}: a pickle can hold "
            f"code. {HOW_TO_CONVERT}"
        )


def _refuse_files_elsewhere(name: str) -> None:
    """Refuses a directory whose lists of weights name files that are not in it: transformers would read them."""
    for index in sorted(Path(name).glob("*.index.json")):
        files = _parsed(name, index).get("weight_map", {})
        for file in sorted({str(file) for file in (files.values() if isinstance(files, Mapping) else [files])}):
            path = PureWindowsPath(file)  # which knows both kinds of separators, and drives
            if path.is_absolute() or path.root or path.drive or ".." in path.parts:
                raise ModelError(f"{index.name} of {name!r} must name files of that directory, got {file!r}.")


def _kernels(config: Any) -> Iterator[str]:
    """Every kernel that a config or a config inside it names."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _kernels(value)
        elif name in _KERNELS:
            yield from (str(kernel) for kernel in (value.values() if isinstance(value, Mapping) else [value]))
