"""The root of a run: chosen once, refused when it holds another run, the same on every rank."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_rlhf.checkpoints.ownership import LockHeldError, OwnershipLock, is_owned
from lightning_rlhf.checkpoints.replacement import FOLDERS, Replacement
from lightning_rlhf.errors import RunDirectoryError

__all__ = [
    "CHECKPOINT_FOLDER",
    "CONFIG_FILE",
    "CONFIG_HEADER",
    "METRICS_FILE",
    "MODEL_FOLDER",
    "RunDirectory",
    "checkpoints",
    "handed_down",
    "inherited",
    "last_checkpoint",
    "require_replaceable",
    "root_of_checkpoint",
    "run_directory_for_evaluation",
    "run_directory_for_training",
    "run_directory_from_python",
]

CONFIG_FILE = "config.yaml"
CONFIG_HEADER = "# lightning-rlhf=="
"""How the first line of a saved config begins: what tells a run's directory from someone's own folder."""
METRICS_FILE = "metrics.csv"
CHECKPOINT_FOLDER = "checkpoints"
MODEL_FOLDER = "model"
MODEL_MARK = "rlhf.json"
"""What stands in every folder of a model that this library wrote."""

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
_LEFTOVERS = (
    *_TRACES,
    "predictions.jsonl",
    "predictions-[0-9]*.jsonl",
    *(f"config-{name}.yaml" for name in ("validate", "test", "predict", "predict-[0-9]*")),
    *(f"metrics-{name}.csv" for name in ("validate", "test")),
)
"""What `--overwrite` removes, evaluations of the old run included; nothing else is touched."""
_REQUEUED = "hpc_ckpt_*.ckpt"
"""What Lightning writes before SLURM starts a job again."""
_HANDED_DOWN = "LIGHTNING_RLHF_RUN_DIRECTORY"
_COMMANDS = ("fit", "validate", "test", "predict")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The root of a run.

    Args:
        path: the directory; need not exist yet. Made absolute, so that no change of the working directory moves it.
        resumes: what it holds stays: it is the earlier part of this run.
        overwrites: it holds another run, which is to be removed before this one writes.
        created: this process made it, and takes it away again if the run never begins.
        shown: the directory as the user named it, for messages and the saved config; default: `path`.
        lock: what keeps other processes out.
    """

    path: Path
    resumes: bool = False
    overwrites: bool = False
    created: bool = False
    shown: Path = field(default=None)  # type: ignore[assignment]
    lock: OwnershipLock | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", self.shown or self.path)
        object.__setattr__(self, "path", self.path.absolute())

    def named(self, file: Path) -> Path:
        """A file of the run as the user would name it."""
        return self.shown / file.relative_to(self.path) if file.is_relative_to(self.path) else file

    def begin(self, *, anew: bool = False) -> None:
        """Start the run: from here on the files in the root are its own, until it makes a step on probation.

        A run that was here is put out of the way: it is needed again if the new one fails at once.

        Args:
            anew: there is no checkpoint to resume the run from, so that it starts from nothing.

        Raises:
            RunDirectoryError: files cannot be moved, or are no run's of this library.
        """
        if self.resumes and not anew:
            return
        places = _there(self.path, _LEFTOVERS) if self.overwrites or anew else []
        if anew and _holds_run(self.path) and not _is_ours(self.path / CONFIG_FILE):
            raise RunDirectoryError(
                f"ckpt_path 'last' must be given with a directory whose {CONFIG_FILE} lightning-rlhf wrote, got "
                f"{self.shown}. Name another directory, or leave --ckpt_path out."
            )
        with _clear_errors(f"{self.shown} must be a directory whose files can be moved"):
            Replacement(self.path).begin(places)

    @property
    def has_begun(self) -> bool:
        """Whether the run has made a step, in whichever process."""
        return not Replacement(self.path).is_pending

    def let_go(self) -> None:
        """The run has made a step: remove the one that was put aside."""
        with _clear_errors(f"{self.shown} must be a directory whose files can be moved"):
            Replacement(self.path).complete()

    def withdraw(self) -> None:
        """Take back what a run wrote that made no step: the next try would be refused because of it."""
        with _clear_errors(f"{self.shown} must be a directory whose files can be moved"):
            Replacement(self.path).undo(_there(self.path, _TRACES))
        self.discard_if_empty()

    def discard_if_empty(self) -> None:
        """Take away a directory that was made for a run that left nothing in it."""
        own = set() if self.lock is None else {self.lock.path}
        if self.created and self.path.is_dir() and {*self.path.iterdir()} <= own:
            self.release()
            with suppress(OSError):
                self.path.rmdir()
                if self.path.parent.name == _RUNS.name:
                    self.path.parent.rmdir()

    def locked(self) -> "RunDirectory":
        """The same, with other processes kept out, and what a process began that was cut off brought to an end.

        Raises:
            RunDirectoryError: another process is at work here.
        """
        directory = replace(self, lock=_taken(self, "fit"))
        try:
            with _clear_errors(f"trainer.default_root_dir {self.shown} must be a directory whose files can be moved"):
                Replacement(self.path).recover(_there(self.path, _TRACES))
        except BaseException:
            directory.release()
            raise
        return directory

    def release(self) -> None:
        """Let other processes in."""
        if self.lock is not None:
            self.lock.release()

    def refuse_to_lose(self, folders: Iterable[Path]) -> None:
        """A run that left checkpoints of other names, or a model, is none that may begin anew where it stood.

        Args:
            folders: where callbacks of the user's own write checkpoints.

        Raises:
            RunDirectoryError: it did.
        """
        left = [str(self.named(file)) for file in checkpoints(self.path, *folders)]
        if left or (self.path / MODEL_FOLDER).exists():
            found = f"only {', '.join(left)}" if left else f"a model that is trained, in {self.shown / MODEL_FOLDER}"
            raise RunDirectoryError(
                f"ckpt_path 'last' must find a last.ckpt of the run in {self.shown}, got {found}. Name the file to go "
                "on from with --ckpt_path, or begin anew with --overwrite and without --ckpt_path."
            )


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
        if not _holds_run(path):
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
        lock = OwnershipLock.take(directory.path / _lock_of("fit"))
        try:
            Replacement(directory.path).recover(_there(directory.path, _TRACES))
        finally:
            lock.release()
    return replace(directory, lock=_taken(directory, command))


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
    if is_owned(directory.path / _lock_of("fit")):
        _taken(directory, "fit").release()  # raises, unless the owner is gone or this process
    require_replaceable(directory.path / MODEL_FOLDER)
    return directory


def _chosen(root: str | None, stage: str, resumed: Path | None, here: Path, *, make: bool) -> RunDirectory:
    """The directory that was named, else that of the run that is resumed, else a new one."""
    shown = Path(root).expanduser() if root else resumed or _next_free(stage, here, make=make)
    path = here / shown
    is_new = (root is None and resumed is None) or not path.exists()
    if make:
        with _clear_errors(f"trainer.default_root_dir {shown} must be a directory that can be written"):
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError("permission denied")
    return RunDirectory(path, created=is_new, shown=shown)


def _taken(directory: RunDirectory, command: str) -> OwnershipLock:
    with _clear_errors(f"trainer.default_root_dir {directory.shown} must be a directory that can be written"):
        try:
            return OwnershipLock.take(directory.path / _lock_of(command))
        except LockHeldError as error:
            owner = error.owner
            elsewhere = "" if owner and owner.is_on_this_machine else f" If that is gone, remove {error.path}."
            raise RunDirectoryError(
                f"trainer.default_root_dir must be a directory that no other {command} uses, got {directory.shown}, "
                f"in use by {owner or 'another process'}. Wait for it or end it, or name another directory."
                f"{elsewhere}"
            ) from None


def _lock_of(command: str) -> str:
    return f".{command}.lock"


def _check_replaceable(directory: RunDirectory) -> None:
    """Raises unless what `--overwrite` would remove is a run of this library that nobody looks at."""
    if not _is_ours(directory.path / CONFIG_FILE):
        raise RunDirectoryError(
            f"--overwrite must be given a directory whose {CONFIG_FILE} lightning-rlhf wrote, got {directory.shown}. "
            "Remove what is in it yourself, or name another directory."
        )
    require_replaceable(directory.path / MODEL_FOLDER)
    for command in _COMMANDS[1:]:
        if is_owned(directory.path / _lock_of(command)):
            raise RunDirectoryError(
                f"--overwrite must be given a directory that no process reads, got {directory.shown}, which a "
                f"{command} is using. Wait for it or end it, or name another directory."
            )


def require_replaceable(model: Path) -> None:
    """Raises `RunDirectoryError` for a folder in the place of a trained model that this library did not write.

    Args:
        model: the folder; need not exist.
    """
    there = model.is_symlink() or model.exists()
    if there and not (model / MODEL_MARK).is_file() and not (model.is_dir() and not any(model.iterdir())):
        raise RunDirectoryError(
            f"{model} must be a model that lightning-rlhf wrote, which a {MODEL_MARK} in it shows, or not be there, "
            "got something else. Move it away, or name another trainer.default_root_dir."
        )


def root_of_checkpoint(ckpt_path: str | None, here: Path | None = None) -> Path | None:
    """The root of the run that wrote a checkpoint; None where that cannot be told."""
    if ckpt_path is None:
        return None
    folder = Path(ckpt_path).parent
    root = (here or Path.cwd()) / folder.parent
    places = (root, *(root / name for name in FOLDERS))  # it may be put aside
    is_in_run = folder.name == CHECKPOINT_FOLDER and any(_is_ours(place / CONFIG_FILE) for place in places)
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


def _next_free(stage: str, here: Path, *, make: bool) -> Path:
    """`runs/<stage>-<number>`, numbered above all that are there."""
    prefix = f"{stage}-"
    numbers = [
        int(path.name.removeprefix(prefix))
        for path in (here / _RUNS).glob(f"{prefix}*")
        if path.name.removeprefix(prefix).isdecimal()
    ]
    number = max(numbers, default=-1) + 1
    with _clear_errors(f"{_RUNS} must be a directory that can be written"):
        while make:
            try:
                (here / _RUNS / f"{prefix}{number}").mkdir(parents=True)
                break
            except FileExistsError:
                if not (here / _RUNS).is_dir():
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
