"""Reads the rows of a layout's files, one at a time, and cuts splits out of them.

The core's readers do jsonl, csv, parquet and text. A JSON array is read element by element here (`ijson`): the dumps
that people pass on as one array are larger than what a machine should hold at once.
"""

import gzip
import json
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import ijson

from lightning_rlhf import DataSource
from lightning_rlhf.builtins.files import FileFormat, NumberedRow, file_format_of, read_rows
from lightning_rlhf.builtins.splitting import assigned_split, check_fractions
from lightning_rlhf.errors import BadRowError, ConfigError, DataError, RecordError
from lightning_rlhf.plugin_system.interfaces import SPLITS
from lightning_rlhf.records import Record

__all__ = ["LayoutSource", "opened", "sample"]

_BOM = b"\xef\xbb\xbf"
_DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class LayoutSource(DataSource):
    """Records out of the rows of local files in one layout.

    Args:
        path: a file, a folder of files, a list of these that are read one after the other, or one of all that per split
            (`{train: a.json, validation: b.json}`).
        val_fraction: share of the prompts to hold out for validation, chosen by a hash of the prompt.
        test_fraction: share of the prompts to hold out for testing.
    """

    offline = True
    suffixes: ClassVar[tuple[str, ...]] = _DATA_SUFFIXES
    """The files of a folder that are read; each also with .gz."""

    def __init__(
        self, path: str | list[str] | dict[str, str | list[str]], val_fraction: float = 0.0, test_fraction: float = 0.0
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.path = path
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        by_split = path if isinstance(path, dict) else {"train": path}
        self._paths = {split: _path_list(paths) for split, paths in by_split.items()}
        for split in self._paths:
            if split not in SPLITS:
                raise ConfigError(f"the splits in `path` must be among {', '.join(SPLITS)}, got {split!r}.")
        for split, fraction in self._fractions().items():
            if fraction and split in self._paths:
                name = "val_fraction" if split == "validation" else "test_fraction"
                raise ConfigError(f"{name} must be 0 when `path` names the {split} split, got {fraction}.")

    def load(self, split: str) -> Iterable[Record]:
        """The records of one split, with a `BadRowError` in place of each bad row.

        Args:
            split: one of train, validation, test. A split that no file supplies and no fraction cuts out of the
                training rows is empty.

        Raises:
            DataError: the split cannot be read.
        """
        if split not in SPLITS:
            raise DataError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}.")
        part = "train" if self._fractions()[split] else split
        return _Records(self, part, split) if self.files(part) else ()

    @abstractmethod
    def records(self, row: Any) -> Iterable[Record]:
        """The records of a row.

        Raises:
            RecordError: the row breaks a rule of its layout, or of the record.
        """

    def rows(self, file: Path) -> Iterator[NumberedRow]:
        """Lines or places, and rows of a file, a `RecordError` in place of one that cannot be read."""
        file_format = self.file_format(file)
        return _json_rows(file) if file_format == "json" else read_rows(file, file_format)

    def file_format(self, file: Path) -> FileFormat:
        """How a file is read."""
        return file_format_of(str(file))

    def split_of(self, record: Record) -> str:
        """The side of a record when splits are cut out of the training rows."""
        return assigned_split(record, self.val_fraction, self.test_fraction)

    def files(self, part: str) -> list[tuple[str, Path]]:
        """The files of a part, as the user named them and as they are opened.

        Raises:
            DataError: a path that was named is not there.
        """
        found = []
        for name in self._paths.get(part, ()):
            path = Path(name).expanduser()
            if not path.exists():
                raise DataError(f"a data file must exist, got {name!r}, looked for in {Path.cwd()}.")
            inside = sorted(file for file in path.rglob("*") if self._is_data(file)) if path.is_dir() else [path]
            if not inside:
                raise DataError(f"the folder {name!r} must hold {', '.join(self.suffixes)} files, got none.")
            found += [(str(Path(name, file.relative_to(path))) if path.is_dir() else name, file) for file in inside]
        return found

    def _is_data(self, file: Path) -> bool:
        return file.is_file() and file.name.lower().removesuffix(".gz").endswith(self.suffixes)

    def _fractions(self) -> dict[str, float]:
        return {"train": 0.0, "validation": self.val_fraction, "test": self.test_fraction}


class _Records:
    """The records of one split, read anew by every iteration."""

    def __init__(self, source: LayoutSource, part: str, split: str) -> None:
        self._source = source
        self._part = part
        self._split = split

    def __iter__(self) -> Iterator[Record]:
        return (record for record, _, _ in self.with_places())

    def with_places(self) -> Iterator[tuple[Any, str, int]]:
        """Records with file and line, for what is found wrong with one only when it is tokenized."""
        source = self._source
        kind: type[Any] | None = None
        for origin, file in source.files(self._part):
            for number, row in source.rows(file):
                try:
                    if isinstance(row, RecordError):
                        raise row
                    # as a list: a row that turns out bad half-way must leave nothing behind
                    records = list(source.records(row))
                    kind = _checked_kind(records, kind)
                except RecordError as error:
                    if self._split == self._part:  # no prompt, no hash: a bad row is told of once, where it was read
                        yield BadRowError(str(error), origin=origin, line=number), origin, number
                    continue
                for record in records:
                    if self._part != "train" or source.split_of(record) == self._split:
                        yield record, origin, number


def sample(name: str) -> str:
    """The path of one of the small files that come with the package, one per layout."""
    return str(Path(__file__).parent / "samples" / name)


def _checked_kind(records: Iterable[Record], kind: type[Any] | None) -> type[Any] | None:
    for record in records:
        kind = kind or type(record)
        if not isinstance(record, kind):
            raise RecordError(
                f"the rows of a source must be of one kind, got a {type(record).__name__.lower()} after a "
                f"{kind.__name__.lower()}. Put them into files of their own."
            )
    return kind


def _path_list(paths: str | list[str]) -> list[str]:
    found = [paths] if isinstance(paths, str) else list(paths)
    if not found or not all(isinstance(path, str) and path for path in found):
        raise ConfigError(f"path must name at least one file, got {paths!r}.")
    return found


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """A file, unpacked on the way if its name ends in .gz; what cannot be read is a `DataError`."""
    try:
        with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            yield stream  # type: ignore[misc]
    except EOFError:
        raise DataError(f"{file} must be a whole gzip file, got one that is cut off. Copy it again.") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"{file} must be a readable file, got {error}.") from error


def _json_rows(file: Path) -> Iterator[NumberedRow]:
    """The elements of an array; a single object, as MOSS has them; or an object a line, which some call .json too."""
    with opened(file) as stream:
        start = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
        stream.seek(start)
        # not by lines: a whole array may stand on the first one
        while (first := stream.read(1)).isspace():
            start += 1
        if not first:
            raise DataError(f"{file} must hold at least one row, got an empty file.")
        stream.seek(start)
        if first == b"[":
            yield from _elements(stream, file)
            return
        if not _is_json(stream.readline()):
            stream.seek(start)
            yield 1, _single(stream.read())
            return
    yield from read_rows(file, "jsonl")


def _elements(stream: IO[bytes], file: Path) -> Iterator[NumberedRow]:
    number = 0
    try:
        for number, row in enumerate(ijson.items(stream, "item", use_float=True), start=1):
            yield number, row
    except (ijson.JSONError, UnicodeDecodeError) as error:
        fault = str(error).strip().removeprefix("b'").splitlines()[0].split("\\n")[0].strip()
        raise DataError(f"{file} must be one JSON array of rows, got {fault} after row {number}.") from None
    if not number:
        raise DataError(f"{file} must hold at least one row, got an empty array.")


def _single(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return RecordError(f"the file must be JSON, got {error}.")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
