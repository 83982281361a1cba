"""A root for all files of a run: the same on every rank, absolute, and this run's alone."""

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from lightning_rlhf.callbacks.last_checkpoint import LastCheckpoint
from lightning_rlhf.checkpoints.run_directory import RunDirectory
from lightning_rlhf.checkpoints.run_files import CHECKPOINT_FOLDER
from lightning_rlhf.errors import RunDirectoryError

__all__ = ["RunRoot", "is_first_process"]


def is_first_process() -> bool:
    """Whether this process decides for the others; known before any of them can be asked."""
    node = int(os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0")))
    local = int(os.environ.get("LOCAL_RANK", "0"))  # a process that was spawned finds it only here
    return getattr(rank_zero_only, "rank", 0) == 0 and local == 0 and node == 0


class RunRoot(Callback):
    """Gives every rank the root that rank 0 has chosen, and says when the run has made its first step.

    Ranks that rank 0 starts inherit the root; those that an outside launcher starts choose on their own at first.

    Args:
        directory: what this process has chosen.
        releases: let other processes in when the fit is over; else whoever chose the directory does.
    """

    def __init__(self, directory: RunDirectory, releases: bool = False) -> None:
        self.directory = directory
        self.releases = releases
        self._has_stepped = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take over rank 0's choice before anything is written."""
        root = trainer.strategy.broadcast(str(self.directory.path))
        if root != str(self.directory.path):
            self.directory.discard_if_empty()
        trainer._default_root_dir = root  # type: ignore[attr-defined]
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.put_into(Path(root) / CHECKPOINT_FOLDER)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep other processes out, where that is not done yet.

        Not before: loggers and checkpoint callbacks of the user's own warn of a folder that is not empty.
        """
        if self.releases and trainer.is_global_zero:
            self.directory = self.directory.locked()

    def on_train_batch_end(self, trainer: L.Trainer, *args: object, **kwargs: object) -> None:
        """The run has made a step: the one that it replaces may go.

        Raises:
            RunDirectoryError: another process has taken the root over.
        """
        if self.directory.lock is not None and self.directory.lock.is_lost:
            raise RunDirectoryError(
                f"the run in {self.directory.shown} must be the only one there, got another process that took it over "
                "because this one had not been heard of. This one ends, and changes nothing more."
            )
        if not self._has_stepped and trainer.global_step:
            self._has_stepped = True
            for logger in trainer.loggers:
                getattr(logger, "begin", lambda: None)()
            if trainer.is_global_zero:
                self.directory.let_go()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The fit is over."""
        if self.releases:
            self.directory.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The fit is over, too."""
        if self.releases:
            self.directory.discard_if_empty()
            self.directory.release()
