"""Writing files so that a full disk, a missing permission or a kill leaves a whole file, old or new, and a message."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_rlhf.errors import StorageError

__all__ = ["clear_storage_errors", "storage_fault", "whole_folder", "written_beside"]

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
    subject = "what the run writes" if name is None else str(name)
    return StorageError(f"{subject} must be usable, got: {os.strerror(number)}. {_FAULTS[number]}")


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


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place in one step when the block ends well.

    Whatever happens in between, a kill included, `path` is what it was.

    Args:
        path: the file; its folder is made.

    Raises:
        StorageError: the disk is full or a permission is missing; nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.part")
    with clear_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb") as written:
                os.fsync(written.fileno())  # else a machine that stops may know of the new name and not of its bytes
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which takes its place when the block ends well and vanishes when it does not.

    Args:
        path: the folder; the one above it is made.

    Raises:
        StorageError: the disk is full or a permission is missing; `path` is what it was.
    """
    path = path.resolve()
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    with clear_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
        finally:
            if old.exists() and not path.exists():  # between the two renames: the old one is all that there is
                old.rename(path)
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
