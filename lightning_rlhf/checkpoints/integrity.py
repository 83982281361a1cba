"""Checksums of checkpoints: one that is not what was written is named before anything is loaded.

A file carries its own at its end, as the comment that a zip archive may have: torch and every zip program read it as
before. A folder of sharded weights has a list beside its files. Of a file without one, as other programs write it, the
checksums of its entries are compared, which torch writes and never reads.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import xxhash

from lightning_rlhf.errors import ModelError
from lightning_rlhf.files import clear_storage_errors, written_beside

__all__ = ["CHECKSUMS", "SealedFile", "damage", "digest", "require_whole", "write_checksums"]

CHECKSUMS = "checksums.json"
"""In a folder of sharded weights: length and checksum by name of file."""
SHARDED = "meta.pt"
"""What Lightning writes into such a folder, its last file before the checksums."""

_NAME = b"lightning-rlhf xxh3-128 "
_LENGTH = len(_NAME) + 32
_END = b"PK\x05\x06"
"""How the last record of a zip archive begins: 22 bytes, whose last two are the length of the comment behind it."""
_AT_ONCE = 1 << 24

_whole: set[tuple[Any, ...]] = set()
"""What this process has found whole, by path, length and time: ten gigabytes are read once per start."""


class SealedFile:
    """A file to write a zip archive to, which learns its checksum as it is written.

    Args:
        file: empty, binary, at its beginning.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = xxhash.xxh3_128()
        self.error: OSError | None = None
        """What the disk refused: torch's writer puts a report of its own in its place."""

    def write(self, data: Any) -> int:
        """Writes bytes."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._digest.update(data)
        return written

    def flush(self) -> None:
        """Hands what is buffered to the system."""
        self._file.flush()

    def seal(self) -> None:
        """Adds the checksum, once everything is written."""
        self._file.seek(-2, os.SEEK_END)
        self._file.write(_LENGTH.to_bytes(2, "little") + _NAME + self._digest.hexdigest().encode())


def require_whole(path: Path, others: Callable[[], Iterable[Path]] = tuple) -> None:
    """Refuses a checkpoint that is damaged.

    Args:
        path: a file or a folder of sharded weights.
        others: checkpoints to go on from in its place, the newest last.

    Raises:
        ModelError: it is, and which other one is whole.
    """
    fault = damage(path)
    if fault is None:
        return
    left = [other for other in others() if other.exists() and other.resolve() != path.resolve()]
    whole = next((other for other in reversed(left) if damage(other) is None), None)
    if whole is None:
        way_out = "No other one is whole: begin anew, with --overwrite and without --ckpt_path."
    else:
        way_out = f"The newest whole one is {whole}: go on from there with --ckpt_path {whole}."
    raise ModelError(f"ckpt_path must be a whole checkpoint, got {str(path)!r}, which {fault}. {way_out}")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence; None: it is whole, as far as it can be told.

    Args:
        path: a file or a folder of sharded weights.
    """
    with clear_storage_errors(path):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        key = tuple((str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
        if key in _whole:
            return None
        fault = _damage_of_folder(path) if path.is_dir() else _damage_of_file(path)
        if fault is None:
            _whole.add(key)
        return fault


def digest(path: Path, length: int | None = None) -> Any:
    """The checksum of a file's first bytes, to go on with.

    Args:
        path: of the file.
        length: bytes to read; None: all.
    """
    found = xxhash.xxh3_128()
    left = path.stat().st_size if length is None else length
    with path.open("rb", buffering=0) as file:
        while left > 0 and (data := file.read(min(left, _AT_ONCE))):
            found.update(data)
            left -= len(data)
    return found


def write_checksums(folder: Path, found: Mapping[str, tuple[int, str]]) -> None:
    """Writes the list of a folder of sharded weights.

    Args:
        folder: with all its files.
        found: length and checksum by name of file.
    """
    with written_beside(folder / CHECKSUMS) as part:
        part.write_text(json.dumps({"algorithm": "xxh3-128", "files": found}, indent=1) + "\n", encoding="utf-8")


def _damage_of_file(path: Path) -> str | None:
    size = path.stat().st_size
    if not size:
        return "is empty"
    with path.open("rb") as file:
        file.seek(max(0, size - _LENGTH - 22))
        end = file.read()
    if len(end) == _LENGTH + 22 and end.startswith(_END):
        found = digest(path, size - _LENGTH - 2)
        found.update(b"\0\0")  # where the archive has its comment's length, there was none when it was summed up
        expected = _LENGTH.to_bytes(2, "little") + _NAME + found.hexdigest().encode()
        return None if end.endswith(expected) else "is damaged: its bytes are not those that were written"
    if end[-22:].startswith(_END) and end.endswith(b"\0\0"):
        return _damage_of_entries(path)
    return "is none or is cut off"


def _damage_of_entries(path: Path) -> str | None:
    """Of a file without a checksum, by those that torch writes with every entry, unless it is told not to."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if entries and not any(entry.CRC for entry in entries):
                return None
            broken = archive.testzip()
    except Exception as error:  # broken archives raise anything
        return f"is damaged: {type(error).__name__}: {error}"
    return None if broken is None else f"is damaged: the bytes of {broken} are not those that were written"


def _damage_of_folder(folder: Path) -> str | None:
    if not (folder / SHARDED).is_file():
        return f"is none or is cut off: it holds no {SHARDED}"
    if not (folder / CHECKSUMS).exists():
        return None
    try:
        listed = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(length), str(checksum)) for name, (length, checksum) in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return f"is damaged: {CHECKSUMS} is no list of checksums"
    for name, (length, checksum) in expected.items():
        file = folder / Path(name).name
        if not file.is_file() or file.stat().st_size != length or digest(file).hexdigest() != checksum:
            return f"is damaged: the bytes of {file.name} are not those that were written"
    return None
