"""Reads the rows of columnar files, parquet and Arrow, one at a time, each with its number.

Arrow files are what `datasets` writes: streams, or files with an index at their end.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lightning_rlhf.errors import DataError, RecordError, shown

__all__ = ["NumberedRow", "arrow_rows", "num_arrow_rows", "num_parquet_rows", "parquet_rows"]

NumberedRow = tuple[int, Any]
"""1-based line (jsonl, csv, tsv, text) or row (json, parquet, arrow), and the row or the `RecordError` that stands for
it."""

_ROWS_PER_BATCH = 256
_INDEXED = b"ARROW1"
"""The first bytes of an Arrow file that is no stream."""


def parquet_rows(stream: IO[bytes], path: Path) -> Iterator[NumberedRow]:
    """The rows of a parquet file.

    Raises:
        DataError: it is broken, or names a column twice.
    """
    batches = _parquet_file(stream, path).iter_batches(batch_size=_ROWS_PER_BATCH)
    return _numbered(batches, path, "parquet")


def num_parquet_rows(stream: IO[bytes], path: Path) -> int:
    """How many rows a parquet file says that it has."""
    return int(_parquet_file(stream, path).metadata.num_rows)


def arrow_rows(stream: IO[bytes], path: Path) -> Iterator[NumberedRow]:
    """The rows of an Arrow file or stream.

    Raises:
        DataError: it is broken, or names a column twice.
    """
    schema, batches = _arrow_batches(stream, path)
    _require_names_once(schema, path)
    pieces = (
        batch.slice(start, _ROWS_PER_BATCH) for batch in batches for start in range(0, batch.num_rows, _ROWS_PER_BATCH)
    )
    return _numbered(pieces, path, "Arrow")


def num_arrow_rows(path: Path) -> int | None:
    """How many rows an Arrow file has, None of a broken one: it is mapped into memory, not read."""
    import pyarrow as pa  # type: ignore[import-untyped]

    try:
        with pa.memory_map(str(path)) as stream:
            return sum(int(batch.num_rows) for batch in _arrow_batches(stream, path)[1])
    except (pa.ArrowException, OSError, ValueError, DataError):
        return None  # who reads it is told what is wrong


def _arrow_batches(stream: Any, path: Path) -> tuple[Any, Iterable[Any]]:
    import pyarrow as pa

    try:
        head = stream.read(len(_INDEXED))
        stream.seek(0)
        if head != _INDEXED:
            reader = pa.ipc.open_stream(stream)
            return reader.schema, reader
        file = pa.ipc.open_file(stream)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} must be a whole Arrow file, got {error}.") from error
    return file.schema, map(file.get_batch, range(file.num_record_batches))


def _parquet_file(stream: IO[bytes], path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        file = pq.ParquetFile(stream)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} must be a whole parquet file, got {error}.") from error
    _require_names_once(file.schema_arrow, path)
    return file


def _require_names_once(schema: Any, path: Path) -> None:
    if (repeated := _repeated_name(schema)) is not None:
        raise DataError(
            f"{path} must name each column once, got {shown(repeated)} twice. Rename one of them: of two, one would be "
            "lost."
        )


def _repeated_name(fields: Iterable[Any]) -> str | None:
    """A name that two columns have, or two fields of one column."""
    names: set[str] = set()
    for field in fields:
        if field.name in names:
            return str(field.name)
        names.add(field.name)
        members = map(field.type.field, range(field.type.num_fields))
        if (repeated := _repeated_name(members)) is not None:
            return f"{field.name}.{repeated}"
    return None


def _numbered(batches: Iterable[Any], path: Path, name: str) -> Iterator[NumberedRow]:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for row in _python_rows(batch):
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} must be a whole {name} file, got {error} after row {number}.") from error


def _python_rows(batch: Any) -> list[Any]:
    """The rows of a batch; one by one where not all of them can be had, so that the others can."""
    try:
        rows: list[Any] = batch.to_pylist()
    except (ValueError, OverflowError, RecursionError):  # text that is not UTF-8, a time that Python does not have
        if batch.num_rows == 1:
            return [RecordError("a row must hold values that Python has (text in UTF-8, times up to the year 9999).")]
        return [row for place in range(batch.num_rows) for row in _python_rows(batch.slice(place, 1))]
    return rows
