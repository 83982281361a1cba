"""The root of a run, and what may happen to it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_rlhf.checkpoints.ownership import LockHeldError, OwnershipLock
from lightning_rlhf.checkpoints.replacement import Replacement
from lightning_rlhf.checkpoints.run_files import (
    CONFIG_FILE,
    LEFTOVERS,
    MODEL_FOLDER,
    TRACES,
    checkpoints,
    files_there,
    holds_run,
    is_ours,
)
from lightning_rlhf.errors import RunDirectoryError

__all__ = ["RUNS", "RunDirectory", "clear_errors", "handed_down", "inherited", "lock_name"]

RUNS = Path("runs")
"""Where runs without a root of their own are."""
_HANDED_DOWN = "LIGHTNING_RLHF_RUN_DIRECTORY"


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
        places = files_there(self.path, LEFTOVERS) if self.overwrites or anew else []
        if anew and holds_run(self.path) and not is_ours(self.path / CONFIG_FILE):
            raise RunDirectoryError(
                f"ckpt_path 'last' must be given with a directory whose {CONFIG_FILE} lightning-rlhf wrote, got "
                f"{self.shown}. Name another directory, or leave --ckpt_path out."
            )
        with clear_errors(f"{self.shown} must be a directory whose files can be moved"):
            Replacement(self.path).begin(places)

    @property
    def has_begun(self) -> bool:
        """Whether the run has made a step, in whichever process."""
        return not Replacement(self.path).is_pending

    def let_go(self) -> None:
        """The run has made a step: remove the one that was put aside."""
        with clear_errors(f"{self.shown} must be a directory whose files can be moved"):
            Replacement(self.path).complete()

    def withdraw(self) -> None:
        """Take back what a run wrote that made no step: the next try would be refused because of it."""
        with clear_errors(f"{self.shown} must be a directory whose files can be moved"):
            Replacement(self.path).undo(files_there(self.path, TRACES))
        self.discard_if_empty()

    def discard_if_empty(self) -> None:
        """Take away a directory that was made for a run that left nothing in it."""
        own = set() if self.lock is None else {self.lock.path}
        if self.created and self.path.is_dir() and {*self.path.iterdir()} <= own:
            self.release()
            with suppress(OSError):
                self.path.rmdir()
                if self.path.parent.name == RUNS.name:
                    self.path.parent.rmdir()

    def locked(self) -> "RunDirectory":
        """The same, with other processes kept out, and what a process began that was cut off brought to an end.

        Raises:
            RunDirectoryError: another process is at work here.
        """
        directory = replace(self, lock=self.taken("fit"))
        try:
            with clear_errors(f"trainer.default_root_dir {self.shown} must be a directory whose files can be moved"):
                Replacement(self.path).recover(files_there(self.path, TRACES))
        except BaseException:
            directory.release()
            raise
        return directory

    def taken(self, command: str) -> OwnershipLock:
        """The lock that keeps other processes out.

        Args:
            command: of those that may work here side by side, one of each.

        Raises:
            RunDirectoryError: another process has it, or the directory cannot be written.
        """
        with clear_errors(f"trainer.default_root_dir {self.shown} must be a directory that can be written"):
            try:
                return OwnershipLock.take(self.path / lock_name(command))
            except LockHeldError as error:
                owner = error.owner
                elsewhere = "" if owner and owner.is_on_this_machine else f" If that is gone, remove {error.path}."
                raise RunDirectoryError(
                    f"trainer.default_root_dir must be a directory that no other {command} uses, got {self.shown}, "
                    f"in use by {owner or 'another process'}. Wait for it or end it, or name another directory."
                    f"{elsewhere}"
                ) from None

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


def lock_name(command: str) -> str:
    """The file in a root that says that a command is at work there."""
    return f".{command}.lock"


@contextmanager
def clear_errors(rule: str) -> Iterator[None]:
    """Inside, what the disk refuses is a `RunDirectoryError` that begins with the rule."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{rule}, got: {error.strerror or error}.") from error
