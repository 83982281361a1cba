"""Leftovers of a killed run, which the next start clears away."""

from pathlib import Path

from lightning_rlhf.checkpoints.run_files import CHECKPOINT_FOLDER
from lightning_rlhf.files import settle

__all__ = ["settle_run"]

_IN_ROOT = ("model", "*.ckpt", "*.csv", "*.jsonl", "*.svg", "*.yaml")
_AMONG_CHECKPOINTS = ("*.ckpt", "best")
_EARLIER_RELEASES = (".last.ckpt", ".last.old.ckpt")
"""Where they kept a checkpoint until its step was logged."""


def settle_run(root: Path, *folders: Path) -> None:
    """Makes a run's folders what they would be if nothing had been cut off.

    Args:
        root: of a run that no other process writes to.
        *folders: where callbacks of the user's own write checkpoints.

    Raises:
        StorageError: something cannot be renamed or removed.
    """
    settle(root, *_IN_ROOT)
    for folder in dict.fromkeys((root / CHECKPOINT_FOLDER, *folders)):
        settle(folder, *_AMONG_CHECKPOINTS)
    for name in _EARLIER_RELEASES:
        leftover = root / CHECKPOINT_FOLDER / name
        if leftover.is_file():
            leftover.unlink()
