"""Fingerprints of what a run reads beside its config: models and texts. Equal ones mean equal contents."""

import hashlib
import inspect
import json
import sysconfig
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

__all__ = [
    "code_fingerprints",
    "config_fingerprint",
    "text_fingerprint",
    "tokenizer_fingerprint",
    "weights_fingerprint",
]

_NOT_OF_THE_MODEL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Fields of a config that describe its files and not the model."""


def text_fingerprint(*texts: str) -> str:
    """Of some texts, each for itself.

    >>> text_fingerprint("ab", "c") == text_fingerprint("a", "bc")
    False
    """
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """Of every tensor, with its name, shape and type: no value can change unseen."""
    tensors = sorted(model.state_dict().items())
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        sums = threads.map(_checksum, [tensor for _, tensor in tensors])
    described = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors]
    return text_fingerprint(*described, *map(str, sums))


def config_fingerprint(config: Any) -> str:
    """Of a model's config, whatever directory and version of the library it comes from."""
    settings = {name: value for name, value in config.to_diff_dict().items() if name not in _NOT_OF_THE_MODEL}
    return text_fingerprint(json.dumps(settings, sort_keys=True, default=str))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what turns text into ids; the chat template plays no part."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return text_fingerprint(type(tokenizer).__name__, vocabulary, special)


def code_fingerprints(components: Iterable[object]) -> dict[str, str]:
    """Of the source of components that no installed package brings, by module: a person's own classes and functions.

    Args:
        components: objects; functions that they hold count as well.
    """
    found = {}
    for component in components:
        codes: list[Any] = [type(component), *filter(inspect.isfunction, getattr(component, "__dict__", {}).values())]
        for code in codes:
            with suppress(TypeError, OSError):  # of a notebook's cells, say
                file = inspect.getsourcefile(code)
                if file is not None and code.__module__ != "__main__" and not _is_installed(Path(file)):
                    found[code.__module__] = text_fingerprint(Path(file).read_text(encoding="utf-8", errors="replace"))
    return found


def _is_installed(file: Path) -> bool:
    places: list[Any] = [*sysconfig.get_paths().values(), Path(__file__).parents[1]]
    return any(file.resolve().is_relative_to(Path(place).resolve()) for place in places)


def _checksum(tensor: Tensor) -> int:
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return zlib.crc32(values)
