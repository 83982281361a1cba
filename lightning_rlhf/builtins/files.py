"""Reads the rows of local files, one at a time, each with its place.

Text formats are read as bytes, line by line, and parsed here: a reader that casts each column to one type stops at the
first boolean among strings, and one that decodes the whole file stops at its first broken byte. Here such a row is one
bad row, named by its line.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, get_args

from lightning_rlhf.builtins.json_text import array_members, begins_array, json_fault, parsed_json
from lightning_rlhf.builtins.tables import NumberedRow, arrow_rows, num_arrow_rows, num_parquet_rows, parquet_rows
from lightning_rlhf.errors import DataError, RecordError, shown

__all__ = ["FILE_FORMATS", "FileFormat", "NumberedRow", "TextUnit", "file_format_of", "num_rows", "read_rows"]

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "text"]
TextUnit = Literal["line", "paragraph"]

FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
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


def read_rows(
    path: Path, file_format: FileFormat, text_unit: TextUnit = "line", *, one_object: bool = False
) -> Iterator[NumberedRow]:
    """The rows of a file in their order.

    Args:
        path: the file; unpacked on the way if its name ends in .gz.
        file_format: how to read it.
        text_unit: what is one row of a text file: a line, or a paragraph (lines up to a blank one). Blank lines are no
            rows.
        one_object: a json file may also hold one object, which is its only row.

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
                rows = _json_rows(stream, path) if _holds_array(stream) else _jsonl_rows(stream)
            elif file_format == "json":
                rows = _json_rows(stream, path, one_object=one_object)
            elif file_format in ("csv", "tsv"):
                rows = _csv_rows(stream, path, "\t" if file_format == "tsv" else ",")
            elif file_format == "parquet":
                rows = parquet_rows(stream, path)
            elif file_format == "arrow":
                rows = arrow_rows(stream, path)
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
    """How many rows a file holds, where it says so itself (parquet and arrow that are not packed again); else None."""
    if file_format not in ("parquet", "arrow") or path.suffix.lower() == ".gz":
        return None
    if file_format == "arrow":
        return num_arrow_rows(path)
    with _opened(path) as stream:
        return num_parquet_rows(stream, path)


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


def _holds_array(stream: IO[bytes]) -> bool:
    """Whether a file of lines is one JSON array after all, as some programs write it; the stream is rewound."""
    lines = (line for _, line in _lines(stream) if line.strip())
    first, second = next(lines, b""), next(lines, b"")
    stream.seek(0)
    return begins_array(first.decode("utf-8", "surrogateescape"), alone=not second)


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


def _json_rows(stream: IO[bytes], path: Path, *, one_object: bool = False) -> Iterator[NumberedRow]:
    raw = stream.read().removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        return
    try:
        text = raw.decode("utf-8", "surrogateescape")  # a broken byte spoils its own row only
        if text.lstrip(" \t\n\r")[:1] != "[":
            value = parsed_json(text)
            if not (one_object and isinstance(value, dict)):
                raise DataError(
                    f"{path} must hold one JSON array of rows, got {type(value).__name__}. Rows in a list of an object "
                    "are reached with `explode`."
                )
            yield 1, value
            return
        yield from enumerate(array_members(text), start=1)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data" and ".jsonl" not in path.suffixes
        hint = " A file with one row per line is named .jsonl." if lines else ""
        fault = f"{error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
        raise DataError(f"{path}:{error.lineno}: the file must be JSON, got {fault}.{hint}") from None
    except ValueError as error:
        raise DataError(f"{path}: the file must be JSON, got {json_fault(error)}.") from None


def _csv_rows(stream: IO[bytes], path: Path, delimiter: str) -> Iterator[NumberedRow]:
    csv.field_size_limit(_LONGEST_CELL)  # a document in a cell is longer than the module's 128 KiB
    # Latin-1 keeps every byte, so that a broken one spoils its own row only; cells are decoded below.
    reader = csv.reader((line.decode("latin-1") for _, line in _lines(stream)), strict=True, delimiter=delimiter)
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
