"""The root of a run: chosen once, refused when it holds another run, the same on every rank."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lightning_rlhf.errors import RunDirectoryError

__all__ = [
    "CHECKPOINT_FOLDER",
    "CONFIG_FILE",
    "CONFIG_HEADER",
    "METRICS_FILE",
    "RunDirectory",
    "checkpoints",
    "handed_down",
    "inherited",
    "last_checkpoint",
    "root_of_checkpoint",
    "run_directory_for_evaluation",
    "run_directory_for_training",
]

CONFIG_FILE = "config.yaml"
CONFIG_HEADER = "# lightning-rlhf=="
"""How the first line of a saved config begins: what tells a run's directory from someone's own folder."""
METRICS_FILE = "metrics.csv"
CHECKPOINT_FOLDER = "checkpoints"
MODEL_FOLDER = "model"

_RUNS = Path("runs")
_TRACES = (
    CONFIG_FILE,
    METRICS_FILE,
    "samples.jsonl",
    "kl-scores.csv",
    "kl-scores.svg",
    "tensorboard",
    CHECKPOINT_FOLDER,
    MODEL_FOLDER,
)
"""What training writes: any of these says that a run was here."""
_LEFTOVERS = (*_TRACES, "predictions.jsonl")
"""What `--overwrite` removes; nothing else is touched."""
_REQUEUED = "hpc_ckpt_*.ckpt"
"""What Lightning writes before SLURM starts a job again."""
_ASIDE = ".replaced"
"""Where a run that is overwritten lies until the new one has made its first step."""
_HANDED_DOWN = "LIGHTNING_RLHF_RUN_DIRECTORY"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The root of a run.

    Args:
        path: the directory; need not exist yet.
        resumes: what it holds stays: it is the earlier part of this run.
        overwrites: it holds another run, which is to be removed before this one writes.
        created: this process made it, and takes it away again if the run never begins.
    """

    path: Path
    resumes: bool = False
    overwrites: bool = False
    created: bool = False

    def put_aside(self, *, begins_anew: bool = False) -> None:
        """Move a run that was here out of the way: it is needed again if the new one fails at once.

        Args:
            begins_anew: there is no checkpoint to resume the run from. It goes if it was cut off before its first.
        """
        was_cut_off = begins_anew and _is_ours(self.path / CONFIG_FILE) and not (self.path / MODEL_FOLDER).exists()
        if self.overwrites or was_cut_off:
            with _clear_errors(f"{self.path} must be a directory whose files can be moved"):
                (self.path / _ASIDE).mkdir(exist_ok=True)
                for place in _there(self.path, _LEFTOVERS):
                    place.rename(self.path / _ASIDE / place.name)

    def refuse_to_lose(self, folders: Iterable[Path]) -> None:
        """A run that left checkpoints of other names, or a model, is none that may begin anew where it stood.

        Args:
            folders: where callbacks of the user's own write checkpoints.

        Raises:
            RunDirectoryError: it did.
        """
        left = [str(file) for file in checkpoints(self.path, *folders)]
        if left or (self.path / MODEL_FOLDER).exists():
            found = f"only {', '.join(left)}" if left else f"a model that is trained, in {self.path / MODEL_FOLDER}"
            raise RunDirectoryError(
                f"ckpt_path 'last' must find a last.ckpt of the run in {self.path}, got {found}. Name the file to go "
                "on from with --ckpt_path, or begin anew with --overwrite and without --ckpt_path."
            )

    def let_go(self) -> None:
        """Remove the run that was put aside."""
        if (self.path / _ASIDE).is_dir():
            _remove(self.path / _ASIDE)

    def withdraw(self) -> None:
        """Take back what a run wrote that made no step: the next try would be refused because of it."""
        if not self.resumes or (self.path / _ASIDE).is_dir():
            for place in _there(self.path, _TRACES):
                _remove(place)
            _bring_back(self.path)
        self.discard_if_empty()

    def discard_if_empty(self) -> None:
        """Take away a directory that was made for a run that left nothing in it."""
        if self.created:
            with suppress(OSError):
                self.path.rmdir()
                self.path.parent.rmdir()


def run_directory_for_training(
    root: str | None, stage: str, ckpt_path: str | None, *, overwrite: bool, dry_run: bool = False
) -> RunDirectory:
    """The root of a `fit`, made if it is not there.

    Args:
        root: `trainer.default_root_dir`; None: that of the run that `ckpt_path` resumes, else the next free
            `runs/<stage>-<number>`.
        stage: short name of the stage.
        ckpt_path: a checkpoint file, `last`, or None.
        overwrite: an earlier run in the root may be removed.
        dry_run: nothing will be written (`fast_dev_run`): refuse nothing and make nothing.

    Raises:
        RunDirectoryError: the root holds another run or cannot be written.
    """
    resumed = root_of_checkpoint(ckpt_path)
    if root is None:
        if ckpt_path == "last":
            raise RunDirectoryError(
                "ckpt_path 'last' must come with trainer.default_root_dir, got none. "
                "Name the run to resume, for example --trainer.default_root_dir runs/sft-0, or the checkpoint's file."
            )
        if resumed is not None:
            return RunDirectory(resumed, resumes=True)
        return RunDirectory(_next_free(stage, make=not dry_run), resumes=dry_run, created=not dry_run)
    path = Path(root)
    if dry_run:
        return RunDirectory(path, resumes=True)
    created = not path.exists()
    if (path / _ASIDE).is_dir():  # a run was to be overwritten by one that was killed before its first step
        RunDirectory(path).withdraw()
    with _clear_errors(f"trainer.default_root_dir {root} must be a directory that can be written"):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("permission denied")
    if not _holds_run(path):
        return RunDirectory(path, created=created)
    if ckpt_path == "last" or (resumed is not None and resumed.resolve() == path.resolve()):
        return RunDirectory(path, resumes=True)
    if not overwrite:
        raise RunDirectoryError(
            f"trainer.default_root_dir must not hold another run, got {root}. Resume that run with --ckpt_path last, "
            "name another directory, or replace the run with --overwrite."
        )
    if not _is_ours(path / CONFIG_FILE):
        raise RunDirectoryError(
            f"--overwrite must be given a directory whose {CONFIG_FILE} lightning-rlhf wrote, got {root}. "
            "Remove what is in it yourself, or name another directory."
        )
    return RunDirectory(path, overwrites=True)


def run_directory_for_evaluation(root: str | None, stage: str, ckpt_path: str | None) -> RunDirectory:
    """The root of a `validate`, `test` or `predict`: that of the run it looks at, where there is one.

    Args:
        root: as for `run_directory_for_training`.
        stage: as for `run_directory_for_training`.
        ckpt_path: as for `run_directory_for_training`.
    """
    if root is not None:
        return RunDirectory(Path(root))
    resumed = root_of_checkpoint(ckpt_path)
    if resumed is not None:
        return RunDirectory(resumed)
    return RunDirectory(_next_free(stage, make=True), created=True)


def root_of_checkpoint(ckpt_path: str | None) -> Path | None:
    """The root of the run that wrote a checkpoint; None where that cannot be told."""
    if ckpt_path is None:
        return None
    folder = Path(ckpt_path).parent
    is_in_run = folder.name == CHECKPOINT_FOLDER and _is_ours(folder.parent / CONFIG_FILE)
    return folder.parent if is_in_run else None


def checkpoints(root: Path, *folders: Path) -> list[Path]:
    """The checkpoints of a run, whatever they are called, the newest last.

    Args:
        root: of the run.
        *folders: where callbacks of the user's own write checkpoints.
    """
    found = [file for folder in (root / CHECKPOINT_FOLDER, *folders) for file in folder.glob("*.ckpt")]
    files = [file for file in found if not file.name.startswith(".") and file.exists()]  # neither half-written nor gone
    unique = {file.resolve(): file for file in reversed(files)}
    return sorted(unique.values(), key=lambda file: file.stat().st_mtime_ns)


def last_checkpoint(root: Path, *folders: Path) -> Path | None:
    """The file that `ckpt_path: last` means; None: there is none yet.

    Args:
        root: of the run.
        *folders: where callbacks of the user's own write checkpoints.
    """
    files = [*root.glob(_REQUEUED), *(file for folder in folders for file in folder.glob("last*.ckpt"))]
    files.append(root / CHECKPOINT_FOLDER / "last.ckpt")
    there = [file for file in files if file.exists()]  # a link may point at one that is gone
    return max(there, key=lambda file: file.stat().st_mtime_ns, default=None)


@contextmanager
def handed_down(path: Path) -> Iterator[None]:
    """Inside, processes that this one starts find the root in their environment."""
    before = os.environ.get(_HANDED_DOWN)
    os.environ[_HANDED_DOWN] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_HANDED_DOWN]
        else:
            os.environ[_HANDED_DOWN] = before


def inherited() -> Path | None:
    """The root that the process of rank 0 handed down."""
    path = os.environ.get(_HANDED_DOWN)
    return None if path is None else Path(path)


def _there(root: Path, names: Iterable[str]) -> list[Path]:
    """What is there of a run."""
    return [place for name in (*names, _REQUEUED) for place in root.glob(name)]


def _remove(place: Path) -> None:
    with _clear_errors(f"{place} must be removable"):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _bring_back(root: Path) -> None:
    """The run that was put aside is the run again."""
    aside = root / _ASIDE
    if aside.is_dir():
        with _clear_errors(f"{root} must be a directory whose files can be moved"):
            for place in aside.iterdir():
                place.rename(root / place.name)
            aside.rmdir()


def _next_free(stage: str, *, make: bool) -> Path:
    """`runs/<stage>-<number>`, numbered above all that are there."""
    prefix = f"{stage}-"
    numbers = [
        int(path.name.removeprefix(prefix))
        for path in _RUNS.glob(f"{prefix}*")
        if path.name.removeprefix(prefix).isdecimal()
    ]
    number = max(numbers, default=-1) + 1
    with _clear_errors(f"{_RUNS} must be a directory that can be written"):
        while make:
            try:
                (_RUNS / f"{prefix}{number}").mkdir(parents=True)
                break
            except FileExistsError:
                if not _RUNS.is_dir():
                    raise
                number += 1  # another run was faster
    return _RUNS / f"{prefix}{number}"


def _holds_run(path: Path) -> bool:
    return bool(_there(path, _TRACES))


def _is_ours(config: Path) -> bool:
    try:
        with config.open(encoding="utf-8") as lines:
            return lines.readline().startswith(CONFIG_HEADER)
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def _clear_errors(rule: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{rule}, got: {error.strerror or error}.") from error
