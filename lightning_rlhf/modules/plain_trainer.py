"""A plain Trainer's files: in one root, a numbered one if none is named, as the command line leaves them."""

import os
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from lightning_rlhf.callbacks import LearningWatch, ModelExport, NonFiniteGuard, SampleTable
from lightning_rlhf.callbacks.last_checkpoint import LastCheckpoint
from lightning_rlhf.callbacks.last_validation import LastValidation
from lightning_rlhf.callbacks.run_root import RunRoot, is_first_process
from lightning_rlhf.checkpoints.root_choice import run_directory_from_python
from lightning_rlhf.checkpoints.run_directory import RunDirectory
from lightning_rlhf.checkpoints.run_files import CHECKPOINT_FOLDER, last_checkpoint
from lightning_rlhf.errors import RunDirectoryError

__all__ = ["PlainTrainerFiles"]


class PlainTrainerFiles(L.LightningModule):
    """A module with which a notebook's Trainer leaves what the command line's does, and where it does.

    - `fit` without `default_root_dir` writes to the next free `runs/<stage>-<number>`, which `trainer.default_root_dir`
      is from then on.
    - `checkpoints/last.ckpt` takes the place of Lightning's default checkpoint; callbacks of one's own stay.
    - `ckpt_path="last"` finds the root's newest checkpoint, or is refused.
    """

    stage: ClassVar[str]

    @property
    def trainer(self) -> L.Trainer:
        """The Trainer that this module is attached to."""
        return L.LightningModule.trainer.fget(self)  # type: ignore[attr-defined, no-any-return]

    @trainer.setter
    def trainer(self, trainer: L.Trainer | None) -> None:
        L.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        # the last moment before Lightning looks for the checkpoint that `ckpt_path="last"` means
        if trainer is not None and _is_plain_fit(trainer):
            _keep_last_checkpoint(trainer)

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks that belong to every run, so that a plain Trainer does what the command line does.

        Those that the Trainer has already stay: Lightning would replace them.
        """
        trainer: Any = self.trainer
        there = {type(callback) for callback in trainer.callbacks}
        callbacks: list[Callback] = [
            kind()
            for kind in (NonFiniteGuard, LearningWatch, SampleTable, LastValidation, ModelExport)
            if kind not in there
        ]
        if _is_plain_fit(trainer):
            trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, RunRoot)]
            # the last one: at the end it lets other processes in
            callbacks.append(RunRoot(_choose_root(trainer, self.stage), releases=True))
        return callbacks


def _is_plain_fit(trainer: Any) -> bool:
    """Whether a Trainer is about to fit whose files the command line does not look after."""
    if not isinstance(trainer, L.Trainer) or trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return False
    own = [callback for callback in trainer.callbacks if isinstance(callback, RunRoot)]  # type: ignore[attr-defined]
    return not own or own[0].releases


def _named_root(trainer: L.Trainer) -> Path | None:
    """`default_root_dir`; None where nobody named it: Lightning puts the working directory there."""
    root = trainer._default_root_dir  # type: ignore[attr-defined]
    return None if root == os.getcwd() else Path(trainer.default_root_dir)  # noqa: PTH109 - as Lightning writes it


def _keep_last_checkpoint(trainer: L.Trainer) -> None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not trainer.checkpoint_callbacks or any(isinstance(callback, LastCheckpoint) for callback in callbacks):
        return
    kept = [callback for callback in callbacks if not _is_lightnings_default(callback)]
    has_own = any(callback in kept for callback in trainer.checkpoint_callbacks)
    folder = (_named_root(trainer) or Path("runs")) / CHECKPOINT_FOLDER
    last = LastCheckpoint(folder, regular=not has_own, find_last=_find_last)
    trainer.callbacks = [*kept, last]  # type: ignore[attr-defined]


def _is_lightnings_default(callback: Callback) -> bool:
    return (
        type(callback) is ModelCheckpoint
        and callback.state_key == ModelCheckpoint().state_key
        and not (callback.dirpath or callback.filename or callback.save_last or callback.save_top_k != 1)
    )


def _find_last(trainer: L.Trainer) -> set[str]:
    """The checkpoint that `ckpt_path="last"` means.

    Raises:
        RunDirectoryError: there is none.
    """
    root = _named_root(trainer)
    if root is None:
        raise RunDirectoryError(
            "ckpt_path 'last' must come with a Trainer that has default_root_dir, got none. Name the run to resume, "
            "for example default_root_dir='runs/sft-0', or the checkpoint's file."
        )
    others = [callback for callback in trainer.checkpoint_callbacks if not isinstance(callback, LastCheckpoint)]
    found = last_checkpoint(root)
    if found is None and not any(
        callback._find_last_checkpoints(trainer) for callback in others if isinstance(callback, ModelCheckpoint)
    ):
        raise RunDirectoryError(
            f"ckpt_path 'last' must find checkpoints/last.ckpt in default_root_dir, got {root}, where there is none. "
            "Name the run to resume, or leave ckpt_path out to begin one."
        )
    return set() if found is None else {str(found)}


def _choose_root(trainer: L.Trainer, stage: str) -> RunDirectory:
    """The root of this fit, which the Trainer has from here on."""
    named = _named_root(trainer)
    if not is_first_process():
        return RunDirectory(named or Path("runs"))  # rank 0 will say
    before = trainer.default_root_dir
    directory = run_directory_from_python(None if named is None else str(named), stage)
    trainer._default_root_dir = str(directory.path)  # type: ignore[attr-defined]
    trainer.loggers = [_moved(logger, before, directory.path) for logger in trainer.loggers]
    if named is None:
        rank_zero_info(f"the run is in {directory.shown}")
    return directory


def _moved(logger: Any, before: str, root: Path) -> Any:
    """Lightning's default logger, which was made for the root that Lightning took; another stays as it is."""
    is_default = type(logger) in (TensorBoardLogger, CSVLogger) and logger.name == "lightning_logs"
    if not is_default or str(logger._root_dir) != before or logger._experiment is not None:
        return logger
    return type(logger)(root, version=SLURMEnvironment.job_id())
