"""Writing files so that a full disk, a missing permission or a kill leaves a whole file, old or new, and a message."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from lightning_rlhf.errors import StorageError

__all__ = [
    "beside",
    "clear_storage_errors",
    "private",
    "replace_whole",
    "settle",
    "storage_fault",
    "whole_folder",
    "written_beside",
]

_FAULTS = {
    errno.EACCES: "Get the permission, or name another place.",
    errno.EDQUOT: "Free some of the quota.",
    errno.EEXIST: "Something else stands in its place: move that away.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f).",
    errno.EIO: "Look after the disk.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENOENT: "It was there, or was to be there: see who removed it.",
    errno.ENOSPC: "Free some space, or name another place.",
    errno.ENOTDIR: "Name a folder where a folder is meant.",
    errno.EPERM: "Get the permission, or name another place.",
    errno.EROFS: "Name a place that can be written.",
    errno.ESTALE: "Look after the network's disk.",
}
"""What the machine refuses, and what its user can do. Other errors of the system are taken for bugs."""

_LEFTOVER = re.compile(r"\.(?P<place>\.?(?P<name>[^.].*?)(\.new)?)\.(new|old|gone|part)")
"""What a kill leaves beside a file or folder that is being written, or beside what lies beside it."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, safetensors among them, tell the system's errors."""


def storage_fault(error: BaseException, place: Path | str | None = None) -> StorageError | None:
    """The message for an error that is the disk's and not the program's, else None.

    Args:
        error: what was raised.
        place: the file or folder that it was about, where the error itself does not say.
    """
    number = error.errno if isinstance(error, OSError) else None
    if match := _OS_ERROR.search(str(error)):
        number = int(match[1])
    name = getattr(error, "filename", None) or place
    if number not in _FAULTS or (number == errno.ENOENT and name is None):
        return None
    subject = "what the run writes" if name is None else str(_meant(Path(name)))
    return StorageError(f"{subject} must be usable, got: {os.strerror(number)}. {_FAULTS[number]}")


def _meant(path: Path) -> Path:
    """The file that one beside it is to become."""
    match = _LEFTOVER.fullmatch(path.name)
    return path if match is None else path.with_name(match["name"])


@contextmanager
def clear_storage_errors(place: Path | str | None = None) -> Iterator[None]:
    """Inside, what the disk refuses becomes a message without a traceback.

    Args:
        place: the file or folder in question, where the error itself does not say.

    Raises:
        StorageError: the disk is full, a permission is missing, a file is gone.
    """
    try:
        yield
    except Exception as error:
        if fault := storage_fault(error, place):
            raise fault from error
        raise


def private(path: str, flags: int) -> int:
    """An `opener` for files of prompts and responses: what it makes is its owner's alone, from the first moment."""
    return os.open(path, flags, 0o600)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place in one step when the block ends well.

    Whatever happens in between, a kill included, `path` is what it was.

    Args:
        path: the file; its folder is made.

    Raises:
        StorageError: the disk is full or a permission is missing; nothing is left behind.
    """
    part = beside(path, "part")
    with clear_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            _synced(part)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which takes its place when the block ends well and vanishes when it does not.

    Whatever happens in between, a kill included, `path` or what `settle` makes of its leftovers is whole, old or new.

    Args:
        path: the folder; the one above it is made.

    Raises:
        StorageError: the disk is full or a permission is missing; `path` is what it was.
    """
    path = path.resolve()
    new = beside(path, "new")
    with clear_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _settle_place(path)
        new.mkdir()
        try:
            yield new
            for file in new.rglob("*"):
                if file.is_file():
                    _synced(file)
            replace_whole(path)
        except BaseException:
            if path.exists() or not beside(path, "old").exists():  # else it may be all that is whole
                shutil.rmtree(new, ignore_errors=True)
            raise


def beside(path: Path, word: str) -> Path:
    """Where a file or folder lies while it takes the place of `path` (`new`), or has lost it (`old`, `gone`)."""
    return path.with_name(f".{path.name}.{word}")


def replace_whole(path: Path) -> None:
    """Puts what lies beside `path` as `new`, a whole file or folder, in its place.

    A file takes one step. For a folder no system has one: the old one steps aside first, and only for a new one that is
    whole. By that `settle` knows what a kill in between has left.

    Args:
        path: file or folder; need not exist.
    """
    new, old = beside(path, "new"), beside(path, "old")
    if not path.exists() or not (path.is_dir() or new.is_dir()):
        new.replace(path)
        return
    _remove(old)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    with suppress(OSError):  # the new one is in its place: what is left of the old one goes at the next start
        _remove(old)


def settle(folder: Path, *names: str) -> None:
    """Finishes what a kill cut off in a folder: what was being replaced is whole, nothing half-written is left.

    Args:
        folder: need not exist.
        *names: patterns of the files and folders that are written there; what lies beside others is left alone.

    Raises:
        StorageError: something cannot be renamed or removed.
    """
    if not folder.is_dir():
        return
    with clear_storage_errors(folder):
        for leftover in sorted(folder.iterdir()):
            match = _LEFTOVER.fullmatch(leftover.name)
            if match and any(fnmatchcase(match["name"], name) for name in names):
                _settle_place(leftover.with_name(match["place"]))


def _settle_place(path: Path) -> None:
    new, old = beside(path, "new"), beside(path, "old")
    if old.exists() and not path.exists():  # between the two renames of a folder
        (new if new.exists() else old).rename(path)
    for leftover in (new, old, beside(path, "gone"), beside(path, "part")):
        _remove(leftover)


def _remove(place: Path) -> None:
    """Removes a file or folder; half of an old folder never goes under the name of a whole one."""
    if place.is_dir() and not place.is_symlink():
        if place.name.endswith(".old"):
            gone = place.with_name(f"{place.name.removesuffix('.old')}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            place = place.rename(gone)
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _synced(file: Path) -> None:
    """Has the disk hold a file: else a machine that stops may know of its new name and not of its bytes."""
    with file.open("rb") as written:
        os.fsync(written.fileno())
