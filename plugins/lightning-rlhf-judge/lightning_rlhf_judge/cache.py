"""Verdicts on disk: SQLite, which every Python brings, holds plain text and serves several processes at once."""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_rlhf.errors import ScorerError

__all__ = ["VerdictCache", "content_key"]

_WAIT_S = 60.0


class VerdictCache:
    """A file of verdicts by key.

    Opened for each call and closed again, so that it survives pickling, forks and threads. Verdicts quote responses, so
    its file is its owner's alone.

    Args:
        path: the file, made with its folder when first written; `~` is the home directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The verdicts that are known, by key.

        Raises:
            ScorerError: the file cannot be read.
        """
        with self._opened() as database:
            found = (
                (key, database.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()) for key in keys
            )
            return {key: row[0] for key, row in found if row is not None}

    def put(self, key: str, verdict: str) -> None:
        """Keeps a verdict.

        Raises:
            ScorerError: the file cannot be written.
        """
        with self._opened() as database, database:
            database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, verdict))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        path = Path(self.path).expanduser()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(path)
            with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_S)) as database:
                database.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")
                yield database
        except (OSError, sqlite3.Error) as error:
            raise ScorerError(
                f"the cache of a judge must be a writable SQLite file, got {str(path)!r} ({error}). "
                "Delete it, name another one, or set cache to null."
            ) from error


def _make_private(path: Path) -> None:
    """Makes the file, readable for its owner from the first moment; one that everybody may read is closed to others."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.stat().st_mode & 0o004 and path.stat().st_uid == os.getuid():
            path.chmod(0o600)


def content_key(content: Mapping[str, Any]) -> str:
    """The same for the same content, in whatever order its fields stand."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
