"""What a checkpoint may make this process do: hold tensors and plain values, and nothing else.

`weights_only` keeps pickled code out of a checkpoint's file. Four ways are left, closed here: arguments of the module
that name code to import, arguments that name a file with such names in it, arguments that ask for code from the hub,
and the folder of a sharded checkpoint, in which torch unpickles what it finds.
"""

import importlib.util
import io
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from lightning.fabric.utilities.cloud_io import _load as load_checkpoint
from lightning.pytorch.core.saving import _ALLOWED_INSTANTIATORS, CHECKPOINT_PAST_HPARAMS_KEYS

from lightning_rlhf.checkpoints.integrity import require_whole
from lightning_rlhf.errors import ModelError
from lightning_rlhf.parsing import instantiate_module
from lightning_rlhf.plugin_system.manager import plugin_manager

__all__ = ["check_arguments", "check_sharded", "saved_arguments"]

_ATTRIBUTE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.\w+)*)[.:][A-Za-z_][\w.]*")
"""`package.module.Class` or `package.module:function`."""
_FILE = re.compile(r"(?P<file>.+\.py):[A-Za-z_][\w.]*")
_OWN = "lightning_rlhf"
_CHECKED_BY_LIGHTNING = ("_class_path", "_instantiator")

_METADATA = ".metadata"
_DCP = "torch.distributed.checkpoint"
_HARMLESS = {
    f"{_DCP}.metadata": {
        "_MEM_FORMAT_ENCODING",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    },
    f"{_DCP}.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "collections": {"OrderedDict"},
}
"""What torch writes into the metadata of a sharded checkpoint, by module."""


def saved_arguments(checkpoint: Any) -> dict[str, Any]:
    """The arguments that a module's checkpoint holds; its tensors are not read.

    Args:
        checkpoint: path, URL or stream; a stream is left where it was.

    Raises:
        ModelError: it holds pickled code, is damaged, or is no checkpoint.
    """
    if isinstance(checkpoint, str | Path) and Path(checkpoint).is_file():
        require_whole(Path(checkpoint))
    start = checkpoint.tell() if hasattr(checkpoint, "tell") else None
    try:
        found = load_checkpoint(checkpoint, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise ModelError(
            f"a checkpoint must hold tensors and plain values, got one that does not: {reason}. With "
            "weights_only=False it is unpickled all the same, and may run any code: do that with your own alone."
        ) from error
    if start is not None:
        checkpoint.seek(start)
    arguments: dict[str, Any] = {}
    for place in (*CHECKPOINT_PAST_HPARAMS_KEYS, "hyper_parameters"):  # Lightning takes all of them, the last one first
        saved = found.get(place) if isinstance(found, Mapping) else None
        arguments |= saved if isinstance(saved, Mapping) else {}
    return arguments


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Refuses arguments that a checkpoint brings along and that run code which nobody here has asked for.

    Args:
        arguments: those of the checkpoint, less what the caller gives anew.

    Returns:
        What goes before the checkpoint's own: the function that makes the module with a parser that reads no files.

    Raises:
        ModelError: one of them names code that is installed and not imported yet, or asks for code from the hub.
    """
    if arguments.get("trust_remote_code"):
        raise ModelError(
            "the arguments in a checkpoint must not run a model's own code, got trust_remote_code. Give "
            "trust_remote_code=True yourself if you trust the model."
        )
    given = {name: value for name, value in arguments.items() if name not in _CHECKED_BY_LIGHTNING}
    for text in _strings(given):
        if code := _unknown_code(text):
            raise ModelError(
                f"the arguments in a checkpoint must name what is imported already, got {text!r}. Import {code} "
                "first if you trust it, or give the argument anew."
            )
    return _trusted_instantiator(arguments)


def _trusted_instantiator(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What makes Lightning build the module of a checkpoint with a parser that reads no files.

    Lightning's own function would read the file that an argument names, and import what the text in it says.

    Args:
        arguments: those of the checkpoint; only the command line's ask for a parser.
    """
    if "_instantiator" not in arguments:
        return {}
    if arguments["_instantiator"] in _ALLOWED_INSTANTIATORS:  # else Lightning refuses it
        path = f"{instantiate_module.__module__}.{instantiate_module.__name__}"
        _ALLOWED_INSTANTIATORS.add(path)
        return {"_instantiator": path}
    return {}


def check_sharded(folder: Path) -> None:
    """Looks through a folder of sharded weights, which torch would unpickle as it stands.

    Args:
        folder: may also be a file or nothing, of which nothing is said.

    Raises:
        ModelError: it holds code.
    """
    if not (folder / _METADATA).is_file():
        return
    try:
        with (folder / _METADATA).open("rb") as file:
            metadata: Any = _MetadataReader(file).load()
        for index, place in metadata.storage_data.items():
            if type(metadata.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
                torch.load(_slice(folder, place), weights_only=True)
    except Exception as error:  # broken pickles raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise ModelError(
            f"a sharded checkpoint must hold tensors and plain values, got {str(folder)!r} with something else: "
            f"{reason}."
        ) from error


class _MetadataReader(pickle.Unpickler):
    """Makes what torch writes there, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_plain = module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype))
        if is_plain or name in _HARMLESS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _slice(folder: Path, place: Any) -> IO[bytes]:
    path = (folder / place.relative_path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise pickle.UnpicklingError(f"it names the file {place.relative_path}, which is outside")
    with path.open("rb") as file:
        file.seek(place.offset)
        return io.BytesIO(file.read(place.length))


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value, those included that stand in YAML text: a parser reads `{class_path: …}` as a mapping."""
    waiting: list[Any] = [value]
    seen: dict[int, Any] = {}  # with the members, so that no id is given twice
    while waiting:
        member = waiting.pop()
        if isinstance(member, str):
            yield member
            member = _as_yaml(member)
        if isinstance(member, Mapping | list | tuple) and id(member) not in seen:  # YAML's aliases may go in circles
            seen[id(member)] = member
            waiting += member.values() if isinstance(member, Mapping) else member


def _as_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _unknown_code(text: str) -> str | None:
    """The module or file that a string would have run, if it is there and has not run yet."""
    if (match := _FILE.fullmatch(text)) and Path(match["file"]).expanduser().is_file():
        return match["file"]
    match = _ATTRIBUTE.fullmatch(text)
    if match is None or match["module"] in sys.modules or text in _offered():
        return None
    package = match["module"].partition(".")[0]
    try:
        is_there = package != _OWN and importlib.util.find_spec(package) is not None
    except ValueError:  # such as __main__
        is_there = True
    return match["module"] if is_there else None


def _offered() -> set[str]:
    """The class paths of what installed plug-ins offer: whoever installed them asked for them."""
    return {offer.class_path for plugin in plugin_manager().plugins for offer in plugin.components}
