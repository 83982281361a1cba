"""The choice of a run's root: named or the next free one, refused when it holds another run, the same on every rank."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lightning_rlhf.checkpoints.ownership import LockHeldError, OwnershipLock, is_owned
from lightning_rlhf.checkpoints.replacement import Replacement
from lightning_rlhf.checkpoints.run_directory import RUNS, RunDirectory, clear_errors, lock_name
from lightning_rlhf.checkpoints.run_files import (
    CONFIG_FILE,
    MODEL_FOLDER,
    TRACES,
    files_there,
    holds_run,
    is_ours,
    require_replaceable,
    root_of_checkpoint,
)
from lightning_rlhf.errors import RunDirectoryError

__all__ = ["run_directory_for_evaluation", "run_directory_for_training", "run_directory_from_python"]

_COMMANDS = ("fit", "validate", "test", "predict")


def run_directory_for_training(
    root: str | None,
    stage: str,
    ckpt_path: str | None,
    *,
    overwrite: bool,
    dry_run: bool = False,
    here: Path | None = None,
) -> RunDirectory:
    """The root of a `fit`, made if it is not there, and locked.

    Args:
        root: `trainer.default_root_dir`; None: that of the run that `ckpt_path` resumes, else the next free
            `runs/<stage>-<number>`.
        stage: short name of the stage.
        ckpt_path: a checkpoint file, `last`, or None.
        overwrite: an earlier run in the root may be removed.
        dry_run: nothing will be written (`fast_dev_run`): refuse nothing and make nothing.
        here: what relative paths start from; default: the working directory.

    Raises:
        RunDirectoryError: the root holds another run, is in use or cannot be written.
    """
    if root is None and ckpt_path == "last":
        raise RunDirectoryError(
            "ckpt_path 'last' must come with trainer.default_root_dir, got none. "
            "Name the run to resume, for example --trainer.default_root_dir runs/sft-0, or the checkpoint's file."
        )
    resumed, here = root_of_checkpoint(ckpt_path, here), here or Path.cwd()
    directory = _chosen(root, stage, resumed, here, make=not dry_run)
    if dry_run:
        return replace(directory, resumes=True, created=False)
    path, shown = directory.path, directory.shown
    directory = directory.locked()
    try:
        if not holds_run(path):
            return directory
        if ckpt_path == "last" or (resumed is not None and (here / resumed).resolve() == path.resolve()):
            return replace(directory, resumes=True, created=False)
        if overwrite:
            _check_replaceable(directory)
            return replace(directory, overwrites=True, created=False)
        raise RunDirectoryError(
            f"trainer.default_root_dir must not hold another run, got {shown}. Resume that run with --ckpt_path last, "
            "name another directory, or replace the run with --overwrite."
        )
    except BaseException:
        directory.release()
        raise


def run_directory_for_evaluation(
    root: str | None, stage: str, ckpt_path: str | None, command: str, here: Path | None = None
) -> RunDirectory:
    """The root of a `validate`, `test` or `predict`: that of the run it looks at, where there is one.

    It may work beside a `fit`, whose files it leaves alone, but not beside one of its own kind.

    Args:
        root: as for `run_directory_for_training`.
        stage: as for `run_directory_for_training`.
        ckpt_path: as for `run_directory_for_training`.
        command: which of the three.
        here: as for `run_directory_for_training`.

    Raises:
        RunDirectoryError: the root is in use or cannot be written.
    """
    directory = _chosen(root, stage, root_of_checkpoint(ckpt_path, here), here or Path.cwd(), make=True)
    with suppress(LockHeldError, OSError):  # a run that was cut off while it replaced another is that other again
        lock = OwnershipLock.take(directory.path / lock_name("fit"))
        try:
            Replacement(directory.path).recover(files_there(directory.path, TRACES))
        finally:
            lock.release()
    return replace(directory, lock=directory.taken(command))


def run_directory_from_python(root: str | None, stage: str) -> RunDirectory:
    """The root of a `fit` that a notebook or a program of one's own starts, made if it is not there.

    What the root holds stays: to fit twice in a notebook is no accident. It is not locked yet (`locked`): Lightning
    opens its loggers first, of which one warns of a folder that is not empty.

    Args:
        root: as for `run_directory_for_training`.
        stage: as for `run_directory_for_training`.

    Raises:
        RunDirectoryError: the root is in use, cannot be written, or holds a folder `model` of somebody's.
    """
    directory = _chosen(root, stage, None, Path.cwd(), make=True)
    if is_owned(directory.path / lock_name("fit")):
        directory.taken("fit").release()  # raises, unless the owner is gone or this process
    require_replaceable(directory.path / MODEL_FOLDER)
    return directory


def _chosen(root: str | None, stage: str, resumed: Path | None, here: Path, *, make: bool) -> RunDirectory:
    """The directory that was named, else that of the run that is resumed, else a new one."""
    shown = Path(root).expanduser() if root else resumed or _next_free(stage, here, make=make)
    path = here / shown
    is_new = (root is None and resumed is None) or not path.exists()
    if make:
        with clear_errors(f"trainer.default_root_dir {shown} must be a directory that can be written"):
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError("permission denied")
    return RunDirectory(path, created=is_new, shown=shown)


def _check_replaceable(directory: RunDirectory) -> None:
    """Raises unless what `--overwrite` would remove is a run of this library that nobody looks at."""
    if not is_ours(directory.path / CONFIG_FILE):
        raise RunDirectoryError(
            f"--overwrite must be given a directory whose {CONFIG_FILE} lightning-rlhf wrote, got {directory.shown}. "
            "Remove what is in it yourself, or name another directory."
        )
    require_replaceable(directory.path / MODEL_FOLDER)
    for command in _COMMANDS[1:]:
        if is_owned(directory.path / lock_name(command)):
            raise RunDirectoryError(
                f"--overwrite must be given a directory that no process reads, got {directory.shown}, which a "
                f"{command} is using. Wait for it or end it, or name another directory."
            )


def _next_free(stage: str, here: Path, *, make: bool) -> Path:
    """`runs/<stage>-<number>`, numbered above all that are there."""
    prefix = f"{stage}-"
    numbers = [
        int(path.name.removeprefix(prefix))
        for path in (here / RUNS).glob(f"{prefix}*")
        if path.name.removeprefix(prefix).isdecimal()
    ]
    number = max(numbers, default=-1) + 1
    with clear_errors(f"{RUNS} must be a directory that can be written"):
        while make:
            try:
                (here / RUNS / f"{prefix}{number}").mkdir(parents=True)
                break
            except FileExistsError:
                if not (here / RUNS).is_dir():
                    raise
                number += 1  # another run was faster
    return RUNS / f"{prefix}{number}"
