"""Wrappers that make Lightning's strategies write whole checkpoints and verify them before they load."""

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins import AsyncCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn

from lightning_rlhf.checkpoints.file_io import BackgroundIO, WholeFileIO
from lightning_rlhf.checkpoints.foreign import check_sharded
from lightning_rlhf.checkpoints.frozen_weights import LEFT_OUT
from lightning_rlhf.checkpoints.integrity import CHECKSUMS, SHARDED, digest, require_whole, write_checksums
from lightning_rlhf.errors import ConfigError, ModelError

__all__ = ["by_age", "prepare_strategy", "require_training_state", "require_usable", "siblings"]

_SHARD = re.compile(r"__(\d+)_\d+\.distcp")
"""A file that one rank writes; the others are of rank 0."""


def prepare_strategy(strategy: Strategy) -> None:
    """Has a strategy write checkpoints whole and with checksums, and look at one before it loads it.

    Args:
        strategy: changed in place, once; a `CheckpointIO` of the user's own stays.

    Raises:
        ConfigError: it writes checkpoints in the background in a way that nothing can wait for.
    """
    strategy.checkpoint_io = _whole_io(strategy.checkpoint_io)
    if getattr(strategy.load_checkpoint, "checks", False):
        return
    _check_before_loading(strategy)
    if isinstance(strategy, ModelParallelStrategy):
        _sum_up_after_saving(strategy)


def require_training_state(path: Path | str, found: Any, *, is_fit: bool) -> None:
    """Refuses what a run cannot go on from.

    Args:
        path: of the checkpoint.
        found: what it holds; of one with sharded weights what is not sharded.
        is_fit: training is to go on, and not weights to be looked at.

    Raises:
        ModelError: it is no checkpoint of Lightning's, or holds weights alone.
    """
    if not isinstance(found, Mapping) or "pytorch-lightning_version" not in found:
        raise ModelError(f"ckpt_path must be a checkpoint that Lightning wrote, got {str(path)!r}, which is none.")
    if is_fit and "lr_schedulers" not in found:
        raise ModelError(
            f"ckpt_path must be a checkpoint with the state of the training, got {str(path)!r}, which holds weights "
            "alone (save_weights_only). validate, test and predict take it; to go on training, name one that was saved "
            "without that option."
        )


def require_usable(path: Path, *, is_fit: bool) -> None:
    """Looks into a checkpoint without reading its tensors, as `require_training_state` does.

    Args:
        path: a whole checkpoint.
        is_fit: training is to go on.

    Raises:
        ModelError: it is none of Lightning's, or holds weights alone.
    """
    try:
        found = torch.load(path / SHARDED if path.is_dir() else path, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):  # why it cannot be loaded is said where it is
        return
    require_training_state(path, found, is_fit=is_fit)


def siblings(path: Path) -> list[Path]:
    """The checkpoints of the same folder, the newest last."""
    return by_age(file for file in path.parent.glob("*.ckpt") if not file.name.startswith("."))


def by_age(files: Iterable[Path]) -> list[Path]:
    """Those that exist, the newest last."""
    return sorted((file for file in files if file.exists()), key=lambda file: file.stat().st_mtime_ns)


def _whole_io(io: CheckpointIO) -> CheckpointIO:
    if type(io) is TorchCheckpointIO:
        return WholeFileIO()
    if not isinstance(io, AsyncCheckpointIO) or isinstance(io, BackgroundIO):
        return io
    if type(io) is not AsyncCheckpointIO:
        raise ConfigError(
            f"what writes checkpoints in the background must be AsyncCheckpointIO itself, got {type(io).__name__}, "
            "which nothing can wait for. Name AsyncCheckpointIO in trainer.plugins, or none."
        )
    below = io.checkpoint_io
    return BackgroundIO(WholeFileIO() if below is None or type(below) is TorchCheckpointIO else below)


def _check_before_loading(strategy: Strategy) -> None:
    """`load_checkpoint` then refuses what is damaged, what holds code in a folder of sharded weights, which torch would
    unpickle, and what a run cannot go on from; it unpickles what a URL holds only if it is told to.
    """
    load = strategy.load_checkpoint

    def load_checked(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """As before, after a look.

        Raises:
            ConfigError: it is sharded, and this strategy cannot load such a one.
            ModelError: it is damaged, holds code, or weights alone where training is to go on.
        """
        path = Path(checkpoint_path)
        if path.is_dir() and not isinstance(strategy, ModelParallelStrategy):
            raise ConfigError(
                f"the strategy must be ModelParallelStrategy to load the sharded checkpoint {str(path)!r}, got "
                f"{type(strategy).__name__}."
            )
        if path.exists() and strategy.is_global_zero:  # one process looks for all: it may be large
            require_whole(path, lambda: siblings(path))
        if path.is_dir():
            check_sharded(path)
        module = strategy.lightning_module
        is_fit = module is not None and module.trainer.state.fn == TrainerFn.FITTING
        with _completed(strategy, path):
            found = load(checkpoint_path, weights_only=weights_only is not False)
        if module is not None:
            require_training_state(path, found, is_fit=is_fit)
        return found

    load_checked.checks = True  # type: ignore[attr-defined]
    strategy.load_checkpoint = load_checked  # type: ignore[method-assign]


@contextmanager
def _completed(strategy: Strategy, path: Path) -> Iterator[None]:
    """Inside, sharded weights may keep what a checkpoint leaves out: they are loaded before anyone can complete it."""
    module = strategy.lightning_module
    if not isinstance(strategy, ModelParallelStrategy) or module is None or not path.is_file():
        yield
        return
    found = torch.load(path, map_location="meta", weights_only=True)
    record = found.get("lightning_rlhf", {}).get(LEFT_OUT, {})
    known = {*record.get("sums", {}), *record.get("from_files", ()), *found.get("state_dict", {})}
    strict = module.strict_loading
    module.strict_loading = strict and not (record and {name for name, _ in module.named_parameters()} <= known)
    try:
        yield
    finally:
        module.strict_loading = strict


def _sum_up_after_saving(strategy: ModelParallelStrategy) -> None:
    """`save_checkpoint` then adds checksums to a folder of sharded weights; each rank sums up what it wrote."""
    save = strategy.save_checkpoint

    def save_and_sum_up(checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """As before, and then a list of checksums."""
        save(checkpoint, filepath, storage_options=storage_options)
        folder = Path(strategy.broadcast(filepath))
        if not (folder / SHARDED).exists():
            return
        own = [file for file in folder.iterdir() if _writer(file) == strategy.global_rank]
        sums = {file.name: (file.stat().st_size, digest(file).hexdigest()) for file in own}
        everyone: list[Any] = [None] * strategy.world_size
        torch.distributed.all_gather_object(everyone, sums)
        if strategy.is_global_zero:
            write_checksums(folder, {name: found for each in everyone for name, found in each.items()})

    strategy.save_checkpoint = save_and_sum_up  # type: ignore[method-assign]


def _writer(file: Path) -> int | None:
    """The rank that wrote a file of a folder of sharded weights; None: it is none of its files."""
    if file.name == CHECKSUMS or file.name.endswith(".part"):
        return None
    match = _SHARD.fullmatch(file.name)
    return 0 if match is None else int(match[1])
