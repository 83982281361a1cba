"""Tokenized rows on disk: mapped into memory, which does not grow with them."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from huggingface_hub.constants import HF_HOME
from numpy.typing import NDArray
from tqdm import tqdm

from lightning_rlhf.data.arrow_file import ArrowFile, write_arrow_file
from lightning_rlhf.data.rows import Row, Tally, Tokenization, greatest_id
from lightning_rlhf.errors import BadRowError, RecordError, TemplateError
from lightning_rlhf.files import clear_storage_errors
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Record

__all__ = [
    "OnBadRow",
    "StoredRows",
    "cache_folder",
    "placed",
    "shown_rows",
    "source_name",
    "store_rows",
    "tokenized_rows",
    "write_private",
]

OnBadRow = Literal["error", "skip"]

_FILE = "rows.arrow"
_FINGERPRINT = "fingerprint"
_SECONDS_BEFORE_BAR = 2.0
_PLACES = "places"
"""Column with the file and line of each record that is in a row: several where rows are packed."""


class StoredRows:
    """The rows of a folder that `store_rows` wrote.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.tally = Tally(**json.loads((folder / "tally.json").read_text(encoding="utf-8")))
        self.fingerprint = (folder / _FINGERPRINT).read_text(encoding="utf-8")
        """Of what the rows hold and of their order; the file and line that they come from play no part."""
        self._file = ArrowFile(folder / _FILE) if self.tally.num_rows else None

    def __len__(self) -> int:
        return self.tally.num_rows

    def __getitem__(self, position: int) -> Row:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Row]:
        """Several rows at once: what torch's DataLoader asks for."""
        if self._file is None:
            raise IndexError("no rows were stored")
        return self._file.rows(positions)

    def places(self, positions: Sequence[int]) -> list[str]:
        """File and line of each of these rows, or of the records that are packed in it."""
        return [" and ".join(row[_PLACES]) for row in self.__getitems__(positions)]

    def counts(self, name: str) -> NDArray[np.int64]:
        """A column of numbers, one per row."""
        return np.zeros(0, dtype=np.int64) if self._file is None else self._file.numbers(name)


def shown_rows(rows: StoredRows) -> str:
    """How many rows there are, and their fingerprint."""
    return f"{len(rows)} of fingerprint {rows.fingerprint[:8]}"


def cache_folder() -> Path:
    """Where tokenized rows lie while a run needs them: beside what the `datasets` library caches."""
    return Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME) / "datasets")) / "lightning_rlhf"


def source_name(source: DataSource) -> str:
    """A source as errors and reports name it."""
    place = getattr(source, "path", None) or getattr(source, "name", None)
    return f"{type(source).__name__} {place}" if isinstance(place, str) else type(source).__name__


def store_rows(
    folder: Path,
    source: DataSource,
    split: str,
    tokenization: Tokenization,
    *,
    on_bad_row: OnBadRow,
    arrange: Callable[[Iterable[Row]], Iterable[Row]] = iter,
    seen: Callable[[Any], None] = lambda record: None,
) -> Tally:
    """Tokenizes a split of a source and writes it to a folder.

    Args:
        folder: where to; made if it is not there.
        source: where the records come from.
        split: train, validation or test.
        tokenization: what makes rows of a record.
        on_bad_row: raise at the first bad row, or leave bad rows out and count them.
        arrange: rearranges the stream of rows, such as packing.
        seen: is told of every record.

    Raises:
        BadRowError: a row breaks a rule; names file and line where the source knows them.
        DataError: the source cannot be read, or holds another kind of record.
        StorageError: the folder cannot be written.
    """
    tally = Tally()
    rows = arrange(tokenized_rows(source, split, tokenization, on_bad_row, tally, seen))

    def counted() -> Iterator[Row]:
        for row in rows:
            tally.num_rows += 1
            tally.longest = max(tally.longest, tokenization.length(row))
            tally.greatest_id = max(tally.greatest_id, greatest_id(row))
            yield row

    with clear_storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # rows are readable as text
        write_private(folder / _FILE, "")
        features = {**tokenization.features, _PLACES: "string[]"}
        fingerprint = write_arrow_file(folder / _FILE, features, counted(), without=[_PLACES])
        write_private(folder / _FINGERPRINT, fingerprint)
        write_private(folder / "tally.json", json.dumps(asdict(tally)))
    return tally


def tokenized_rows(
    source: DataSource,
    split: str,
    tokenization: Tokenization,
    on_bad_row: OnBadRow,
    tally: Tally,
    seen: Callable[[Any], None] = lambda record: None,
) -> Iterator[Row]:
    """The rows of a split one after the other, as they are to be stored; `tally` counts what is left out or cut.

    Beside what the tokenization makes of a record, `places` holds its file and line.

    Raises:
        BadRowError: a row breaks a rule.
        DataError: the source cannot be read, or holds another kind of record.
    """
    records = source.for_kinds(tokenization.reads).load(split)
    tally.unread_fields = getattr(records, "unread_fields", {})
    total = len(records) if isinstance(records, Sized) else None
    bar = tqdm(
        placed(records, f"{source_name(source)}[{split}]"),
        desc=f"tokenizing {split}",
        total=total,
        unit=" rows",
        delay=_SECONDS_BEFORE_BAR,
        file=sys.stderr,
        leave=False,
    )
    with bar:
        for record, origin, line in bar:
            seen(record)
            try:
                if isinstance(record, BadRowError):
                    raise record
                try:
                    # as a list: a row that turns out bad half-way must leave nothing behind
                    made = list(tokenization.rows(record, tally))
                except (RecordError, TemplateError) as error:  # a chat template refuses what it has no place for
                    raise BadRowError(str(error), origin=origin, line=line) from None
            except BadRowError as error:
                if on_bad_row == "error":
                    raise
                tally.num_skipped += 1
                tally.first_skipped = tally.first_skipped or str(error)
                continue
            for row in made:
                yield {**row, _PLACES: [f"{origin}:{line}"]}


def write_private(path: Path, text: str) -> None:
    """A file that nobody but this user may read."""
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)


def placed(records: Iterable[Record | BadRowError], origin: str) -> Iterator[tuple[Any, str, int]]:
    """Records with file and line, where the source tells them (`with_places`); else with their number in the split."""
    places: Callable[[], Iterator[tuple[Any, str, int]]] | None = getattr(records, "with_places", None)
    if places is not None:
        yield from places()
        return
    for number, record in enumerate(records, start=1):
        yield record, origin, number
