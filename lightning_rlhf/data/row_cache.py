"""Folders of tokenized rows: this user's alone, gone with their process, and found again by a run that was killed."""

import hashlib
import inspect
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from lightning_rlhf.checkpoints.ownership import OwnershipLock, is_owned
from lightning_rlhf.data.rows import Row, Tokenization
from lightning_rlhf.data.storage import OnBadRow, cache_folder, placed, source_name, store_rows, write_private
from lightning_rlhf.data.template_choice import PROBES
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.files import clear_storage_errors
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.version import __version__

__all__ = ["RowsDigest", "folder_name", "provide_rows"]

_KEY = "key"
_LOCK = ".owner.lock"
_DAY_S = 86400


class RowsDigest:
    """A digest of everything that rows are made of: records, template, tokenizer, settings.

    Args:
        tokenization: what makes the rows.
        settings: whatever else decides on them.
    """

    def __init__(self, tokenization: Tokenization, *settings: object) -> None:
        self._digest = hashlib.sha256()
        self._add(__version__, type(tokenization).__qualname__, settings)
        for name, value in sorted(vars(tokenization).items()):
            if name != "formatter":
                self._add(name, _described(value))
        formatter = getattr(tokenization, "formatter", None)
        if formatter is not None:
            self._add(_described(formatter.template), _tokenizer_text(formatter.tokenizer), formatter.stop_ids)
            for probe in PROBES:  # what a template writes without being told, a date say
                with suppress(TemplateError):
                    self._add(formatter.template.render(probe))

    def add_record(self, record: object) -> None:
        """The next record of the split."""
        self._add(str(record) if isinstance(record, Exception) else record)

    def hexdigest(self) -> str:
        """Of all that was added."""
        return self._digest.hexdigest()

    def _add(self, *values: object) -> None:
        for value in values:
            text = repr(value).encode("utf-8", "surrogatepass")
            self._digest.update(f"{len(text)}:".encode() + text)


def _claimed(path: Path, owner: object) -> None:
    """Makes a split's folder, locked, which goes with the end of its owner."""
    with clear_storage_errors(path):
        path.mkdir(parents=True, mode=0o700)  # rows are readable as text
        lock = OwnershipLock.take(path / _LOCK)
    # of multiprocessing: called at the end of a process that was forked or spawned, too
    Finalize(owner, _discard, args=(path, lock), exitpriority=10)


def _adopted(path: Path, prefix: str, key: Callable[[], str]) -> bool:
    """Whether the rows of a killed try of this run are in the folder now: there were some, made of the same."""
    for left in filter(_is_private, _left_behind(prefix)):
        if (left / _KEY).exists() and _key_of(left) == key():
            with suppress(OSError):  # another process was faster
                # the key leaves first and arrives last: it says that the rows are whole
                (left / _KEY).rename(path / f".{_KEY}")
                for file in [place for place in left.iterdir() if not place.name.startswith(".")]:
                    file.rename(path / file.name)
                (path / f".{_KEY}").rename(path / _KEY)
                _remove(left)
                return True
    return False


def provide_rows(
    path: Path,
    owner: object,
    source: DataSource,
    split: str,
    tokenization: Tokenization,
    *,
    on_bad_row: OnBadRow,
    arrange: Callable[[Iterable[Row]], Iterable[Row]],
    packing: bool,
) -> None:
    """Puts the tokenized rows of a split into a folder: those that a killed try of this run left, or new ones.

    Args:
        path: the folder, named by `folder_name`.
        owner: with its end the folder goes.
        source: as for `store_rows`.
        split: as for `store_rows`.
        tokenization: as for `store_rows`.
        on_bad_row: as for `store_rows`.
        arrange: as for `store_rows`.
        packing: whether `arrange` packs.
    """
    _claimed(path, owner)
    run, prefix = path.name.partition("-")[0], path.name.rpartition("-")[0] + "-"

    def digest() -> RowsDigest:
        return RowsDigest(tokenization, on_bad_row, packing, source_name(source))

    @cache
    def key() -> str:
        found = digest()
        for record, _, _ in placed(source.for_kinds(tokenization.reads).load(split), ""):
            found.add_record(record)
        return found.hexdigest()

    if _adopted(path, prefix, key):
        return
    _sweep(run, prefix)
    made_of = digest()
    store_rows(path, source, split, tokenization, on_bad_row=on_bad_row, arrange=arrange, seen=made_of.add_record)
    with clear_storage_errors(path):
        write_private(path / _KEY, made_of.hexdigest())


def folder_name(root: str | Path, label: str, node: int, token: str) -> str:
    """The name of a split's folder: its run and split, the same in every try, and a token of this one.

    Args:
        root: of the run.
        label: of the split.
        node: number of the machine.
        token: of this try, the same on all its processes.
    """
    run = hashlib.sha256(os.fsencode(Path(root).absolute())).hexdigest()[:16]
    return f"{run}-{re.sub('[^a-z]', '_', label)}-{node}-{token}"


def _sweep(run: str, split: str) -> None:
    """Remove what killed processes left: of other runs all, of this run what was of this split.

    Args:
        run: how the names of this run's folders begin, which the next splits may still adopt.
        split: how those of this split begin.
    """
    for left in _left_behind(""):
        if not left.name.startswith(run) or left.name.startswith(split):
            _remove(left)


def _left_behind(prefix: str) -> list[Path]:
    """Folders whose process is gone."""
    folders = [place for place in sorted(cache_folder().glob(f"{prefix}*")) if place.is_dir()]
    return [
        folder
        for folder in folders
        # one without a lock is being made at this moment, or is of a version that locked nothing
        if (not is_owned(folder / _LOCK) if (folder / _LOCK).exists() else _age_s(folder) > _DAY_S)
    ]


def _discard(folder: Path, lock: OwnershipLock) -> None:
    lock.release()
    _remove(folder)
    for left in _left_behind(folder.name.partition("-")[0]):
        _remove(left)


def _remove(folder: Path) -> None:
    gone = folder.with_name(f".gone-{uuid.uuid4().hex}")
    with suppress(OSError):
        folder.rename(gone)  # at once: a folder that is half removed must not be adopted
    shutil.rmtree(gone, ignore_errors=True)


def _key_of(folder: Path) -> str | None:
    try:
        return (folder / _KEY).read_text(encoding="utf-8")
    except OSError:
        return None


def _is_private(folder: Path) -> bool:
    """Whether nobody but this user can have written to it."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _age_s(path: Path) -> float:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _tokenizer_text(tokenizer: Any) -> object:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return (text, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None))


def _described(value: object) -> object:
    """A component by its class, its code and what it was made with; a plain value as it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    code = ""
    with suppress(TypeError, OSError):
        code = hashlib.sha256(Path(inspect.getfile(type(value))).read_bytes()).hexdigest()
    state = {name: each for name, each in getattr(value, "__dict__", {}).items() if _is_plain(each)}
    return (type(value).__module__, type(value).__qualname__, code, sorted(state.items()))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
