"""Rows in a file of Arrow record batches, written one batch at a time and mapped into memory to be read.

Neither side holds more than a few batches, however many rows there are. Every batch but the last has the same number of
rows, so that a row's place follows from its position alone.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# pyarrow is imported where it is used: the command line's help comes here and needs none of it

__all__ = ["ArrowFile", "write_arrow_file"]

_ROWS_PER_BATCH = 256
_OPENED_BATCHES = 1024
"""How many are kept open: their descriptions, the rows stay in the file."""


def write_arrow_file(
    path: Path, features: Mapping[str, str], rows: Iterable[Mapping[str, Any]], *, without: Sequence[str] = ()
) -> str:
    """Writes the rows as they come.

    Args:
        path: of the file.
        features: the type of each column as Arrow names it (`int32`, `string`), with `[]` for a list of them.
        rows: mappings of every column to a value.
        without: columns that the fingerprint leaves out.

    Returns:
        A fingerprint of what the rows hold, and of their order.
    """
    import pyarrow as pa  # type: ignore[import-untyped]

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in features.items()])
    digest = hashlib.blake2b(repr(sorted(features.items())).encode(), digest_size=16)

    def write(batch: Sequence[Mapping[str, Any]]) -> None:
        made = _record_batch(batch, schema)
        writer.write_batch(made)
        for name, column in zip(made.schema.names, made.columns, strict=True):
            if name not in without:
                _add_to(digest, column)

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        batch: list[Mapping[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS_PER_BATCH:
                write(batch)
                batch = []
        if batch:
            write(batch)
    return digest.hexdigest()


class ArrowFile:
    """The rows of a file that `write_arrow_file` wrote, by position.

    Args:
        path: of the file. A copy in another process opens it anew.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._names: list[str] = self._reader.schema.names
        self._columns = lru_cache(maxsize=_OPENED_BATCHES)(lambda number: self._reader.get_batch(number).columns)

    def __reduce__(self) -> tuple[type["ArrowFile"], tuple[Path]]:
        return (ArrowFile, (self._path,))

    def rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows, in the order of their positions.

        Raises:
            IndexError: there is no such row.
        """
        rows = []
        for position in positions:
            number, place = divmod(position, _ROWS_PER_BATCH)
            if not 0 <= number < self._reader.num_record_batches:
                raise IndexError(f"there is no row {position}")
            columns = self._columns(number)
            rows.append({name: column[place].as_py() for name, column in zip(self._names, columns, strict=True)})
        return rows

    def numbers(self, name: str) -> NDArray[np.int64]:
        """A column of numbers, one per row."""
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=[self._names.index(name)])
        # read, not mapped: the mapped pages of a whole file would all count as this process's memory
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_file(file, options=options) as reader:
            batches = map(reader.get_batch, range(reader.num_record_batches))
            return np.concatenate([np.array(np.from_dlpack(batch.column(0)), np.int64) for batch in batches])


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    return pa.list_(_arrow_type(kind.removesuffix("[]"))) if kind.endswith("[]") else pa.type_for_alias(kind)


def _add_to(digest: "hashlib.blake2b", column: Any) -> None:
    """Adds the values of a column that was just made: its buffers begin at its first row."""
    import pyarrow as pa

    if pa.types.is_list(column.type):
        digest.update(column.offsets.to_numpy().tobytes())
        _add_to(digest, column.values)
    elif pa.types.is_string(column.type):
        _, offsets, text = column.buffers()
        digest.update(memoryview(offsets)[: 4 * (len(column) + 1)])
        digest.update(memoryview(text or b"")[: int(np.frombuffer(offsets, np.int32)[len(column)])])
    else:
        digest.update(column.to_numpy(zero_copy_only=False).tobytes())


def _record_batch(rows: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.record_batch([pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema)
