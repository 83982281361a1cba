"""The first rows of the training split, and how many there are in all."""

import time
from collections.abc import Sized
from dataclasses import dataclass
from itertools import islice

from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.data.rows import Row, Tally
from lightning_rlhf.data.storage import source_name
from lightning_rlhf.errors import DataError

__all__ = ["TrainingRows", "training_rows"]

_COUNTING_S = 5.0


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What a plan knows of the rows.

    Args:
        rows: the first ones, as training would store them: packed where the run packs.
        number: rows of the whole split, of many in proportion to the records; None: too many records to count.
    """

    rows: list[Row]
    number: int | None


def training_rows(run: PreparedRun, num_rows: int) -> TrainingRows:
    """Reads the first rows as training would, and counts the rest.

    Args:
        run: whose data it is.
        num_rows: rows that are read at most.

    Raises:
        DataError: the source cannot be read, has a bad row that the run would stop at, or gives no usable row.
    """
    rows = list(islice(run.data.stream("train", Tally()), num_rows))
    if not rows:
        raise DataError(
            f"the train split of {source_name(run.data.source)} must hold at least one usable row, got none. "
            "lightning-rlhf doctor says what became of them."
        )
    if len(rows) < num_rows:
        return TrainingRows(rows, len(rows))
    num_records = _num_records(run)
    read = len({place for row in rows for place in row["places"]})
    return TrainingRows(rows, None if num_records is None else max(round(num_rows * num_records / read), num_rows))


def _num_records(run: PreparedRun) -> int | None:
    records = run.data.records("train")
    if isinstance(records, Sized):
        return len(records)
    end = time.monotonic() + _COUNTING_S
    number = 0
    for _ in records:
        number += 1
        if time.monotonic() > end:
            return None
    return number
