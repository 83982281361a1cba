"""Reads the rows of local files, one at a time, each with its place.

Text formats are read as bytes, line by line, and parsed here: a reader that casts each column to one type stops at the
first boolean among strings, and one that decodes the whole file stops at its first broken byte. Here such a row is one
bad row, named by its line.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from lightning_rlhf.builtins.json_text import array_members, json_fault, parsed_json
from lightning_rlhf.errors import DataError, RecordError, shown

__all__ = ["FILE_FORMATS", "FileFormat", "NumberedRow", "TextUnit", "file_format_of", "num_rows", "read_rows"]

FileFormat = Literal["jsonl", "json", "csv", "parquet", "text"]
TextUnit = Literal["line", "paragraph"]
NumberedRow = tuple[int, Any]
"""1-based line (jsonl, csv, text) or row (json, parquet), and the row or the `RecordError` that stands for it."""

FILE_FORMATS: tuple[FileFormat, ...] = ("jsonl", "json", "csv", "parquet", "text")

_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_ROWS_PER_BATCH = 256
_LONGEST_CELL = 2**31 - 1


def file_format_of(path: str) -> FileFormat:
    """The format that a file's suffix names.

    Raises:
        DataError: it names none.
    """
    name = path.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in _SUFFIXES:
        raise DataError(
            f"the suffix of a data file must be one of {', '.join(_SUFFIXES)}, each also with .gz, got {path!r}. "
            "Rename the file, or name its format in `file_format`."
        )
    return _SUFFIXES[suffix]


def read_rows(path: Path, file_format: FileFormat, text_unit: TextUnit = "line") -> Iterator[NumberedRow]:
    """The rows of a file in their order.

    Args:
        path: the file; unpacked on the way if its name ends in .gz.
        file_format: how to read it.
        text_unit: what is one row of a text file: a line, or a paragraph (lines up to a blank one). Blank lines are no
            rows.

    Yields:
        Line or row number, and the row as a dict of its fields (whatever stands there, in jsonl and json) or a
        RecordError.

    Raises:
        DataError: the file cannot be read to its end, or holds no row.
    """
    empty = True
    try:
        with _opened(path) as stream:
            if file_format == "jsonl":
                rows = _jsonl_rows(stream)
            elif file_format == "json":
                rows = _json_rows(stream, path)
            elif file_format == "csv":
                rows = _csv_rows(stream, path)
            elif file_format == "parquet":
                rows = _parquet_rows(stream, path)
            else:
                rows = _text_rows(stream, text_unit)
            for row in rows:
                empty = False
                yield row
    except EOFError:
        raise DataError(f"{path} must be a whole gzip file, got one that is cut off. Copy it again.") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} must be a readable file, got {error}.") from error
    if empty:
        raise DataError(f"{path} must hold at least one row, got an empty file.")


def num_rows(path: Path, file_format: FileFormat) -> int | None:
    """How many rows a file holds, where it says so itself (parquet that is not packed again); else None."""
    if file_format != "parquet" or path.suffix.lower() == ".gz":
        return None
    with _opened(path) as stream:
        return int(_parquet_file(stream, path).metadata.num_rows)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rb") as unpacked:
            yield unpacked  # type: ignore[misc]
    else:
        with path.open("rb") as plain:
            yield plain


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(stream, start=1):
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"a row must be UTF-8, got the byte 0x{raw[error.start]:02x} at {error.start}.") from None


def _jsonl_rows(stream: IO[bytes]) -> Iterator[NumberedRow]:
    for number, line in _lines(stream):
        if not line.strip():
            continue
        try:
            yield number, parsed_json(_decoded(line))
        except RecordError as error:
            yield number, error
        except ValueError as error:
            yield number, RecordError(f"a line must be JSON, got {json_fault(error)}.")


def _json_rows(stream: IO[bytes], path: Path) -> Iterator[NumberedRow]:
    raw = stream.read().removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        return
    try:
        text = raw.decode("utf-8", "surrogateescape")  # a broken byte spoils its own row only
        if text.lstrip(" \t\n\r")[:1] != "[":
            raise DataError(f"{path} must hold one JSON array of rows, got {type(parsed_json(text)).__name__}.")
        yield from enumerate(array_members(text), start=1)
    except json.JSONDecodeError as error:
        hint = " A file with one row per line is named .jsonl." if error.msg == "Extra data" else ""
        fault = f"{error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
        raise DataError(f"{path}:{error.lineno}: the file must be JSON, got {fault}.{hint}") from None
    except ValueError as error:
        raise DataError(f"{path}: the file must be JSON, got {json_fault(error)}.") from None


def _csv_rows(stream: IO[bytes], path: Path) -> Iterator[NumberedRow]:
    csv.field_size_limit(_LONGEST_CELL)  # a document in a cell is longer than the module's 128 KiB
    # Latin-1 keeps every byte, so that a broken one spoils its own row only; cells are decoded below.
    reader = csv.reader((line.decode("latin-1") for _, line in _lines(stream)), strict=True)
    header: list[str] | None = None
    while True:
        first = reader.line_num + 1
        try:
            cells = [_decoded(cell.encode("latin-1")) for cell in next(reader)]
            if not cells:
                continue
            if header is None:
                header = _checked_header(cells, path)
                continue
            if len(cells) != len(header):
                fault = f"a row must have {len(header)} cells, as the header has, got {len(cells)}"
                raise RecordError(fault + _over_lines(first, reader.line_num))
            yield first, dict(zip(header, cells, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise DataError(f"{path}:{first}: the header must be CSV, got {error}.") from None
            if first < reader.line_num and "end of data" in str(error):
                raise DataError(
                    f"{path}:{first}: a quote must be closed, got the end of the file, line {reader.line_num}. Close "
                    "the one that this row opens: what comes after it is read as its text."
                ) from None
            yield first, RecordError(f"a row must be CSV, got {error}{_over_lines(first, reader.line_num)}")
        except RecordError as error:
            if header is None:
                raise DataError(f"{path}:{first}: {error}") from None
            yield first, error


def _over_lines(first: int, last: int) -> str:
    """The end of a message about a row: rows that an open quote has swallowed are named, not lost."""
    return "." if first >= last else f" in the lines {first} to {last}, which quotes make one row."


def _checked_header(cells: list[str], path: Path) -> list[str]:
    if len(set(cells)) != len(cells) or not all(cell.strip() for cell in cells):
        raise DataError(f"the first line of {path} must name each column once, got {shown(cells, 200)}.")
    return cells


def _parquet_file(stream: IO[bytes], path: Path) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        file = pq.ParquetFile(stream)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} must be a whole parquet file, got {error}.") from error
    if (repeated := _repeated_name(file.schema_arrow)) is not None:
        raise DataError(
            f"{path} must name each column once, got {shown(repeated)} twice. Rename one of them: of two, one would be "
            "lost."
        )
    return file


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


def _parquet_rows(stream: IO[bytes], path: Path) -> Iterator[NumberedRow]:
    import pyarrow as pa

    number = 0
    file = _parquet_file(stream, path)
    try:
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
            for row in _python_rows(batch):
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise DataError(f"{path} must be a whole parquet file, got {error} after row {number}.") from error


def _python_rows(batch: Any) -> list[Any]:
    """The rows of a batch; one by one where not all of them can be had, so that the others can."""
    try:
        rows: list[Any] = batch.to_pylist()
    except (ValueError, OverflowError, RecursionError):  # text that is not UTF-8, a time that Python does not have
        if batch.num_rows == 1:
            return [RecordError("a row must hold values that Python has (text in UTF-8, times up to the year 9999).")]
        return [row for place in range(batch.num_rows) for row in _python_rows(batch.slice(place, 1))]
    return rows


def _text_rows(stream: IO[bytes], unit: TextUnit) -> Iterator[NumberedRow]:
    block: list[bytes] = []
    first = 1
    for number, line in _lines(stream):
        blank = not line.strip()
        if block and (blank or unit == "line"):
            yield _text_row(first, block)
            block = []
        if not blank:
            first = first if block else number
            block.append(line)
    if block:
        yield _text_row(first, block)


def _text_row(first: int, block: list[bytes]) -> NumberedRow:
    try:
        return first, {"text": _decoded(b"".join(block)).rstrip("\r\n")}
    except RecordError as error:
        return first, error
