"""Rows in a file of Arrow record batches, written one batch at a time and mapped into memory to be read.

Neither side holds more than a few batches, however many rows there are. Every batch but the last has the same number of
rows, so that a row's place follows from its position alone.
"""

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


def write_arrow_file(path: Path, features: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the rows as they come.

    Args:
        path: of the file.
        features: the type of each column as Arrow names it (`int32`, `string`), with `[]` for a list of them.
        rows: mappings of every column to a value.
    """
    import pyarrow as pa  # type: ignore[import-untyped]

    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in features.items()])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        batch: list[Mapping[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS_PER_BATCH:
                writer.write_batch(_record_batch(batch, schema))
                batch = []
        if batch:
            writer.write_batch(_record_batch(batch, schema))


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


def _record_batch(rows: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.record_batch([pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema)
