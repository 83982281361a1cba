"""Several documents in one row, so that short ones waste no padding."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["packed"]


def packed(rows: Iterable[Mapping[str, Any]], max_length: int) -> Iterator[dict[str, Any]]:
    """Joins neighbouring rows for as long as they fit: lists are concatenated, counts added.

    `lengths` says where the documents end: attention is blocked across them and position ids restart.

    Args:
        rows: rows of `DemonstrationRows`, none longer than `max_length`.
        max_length: tokens of a joined row at most.

    >>> [row["lengths"] for row in packed([{"input_ids": [7] * n, "lengths": [n]} for n in (2, 3, 4)], 5)]
    [[2, 3], [4]]
    """
    current: dict[str, Any] = {}
    for row in rows:
        if current and len(current["input_ids"]) + len(row["input_ids"]) > max_length:
            yield current
            current = {}
        current = {name: current[name] + value for name, value in row.items()} if current else dict(row)
    if current:
        yield current
