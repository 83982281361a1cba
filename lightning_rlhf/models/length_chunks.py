"""Where to cut rows of unequal length, so that each call of a transformer is no wider than its longest row needs."""

from collections.abc import Sequence

import numpy as np

__all__ = ["length_chunks"]


def length_chunks(lengths: Sequence[int], *, tokens_per_call: int) -> list[list[int]]:
    """Row numbers, longest first, cut so that the padded tokens and the calls together cost least.

    Args:
        lengths: tokens of each row.
        tokens_per_call: as many tokens as a call costs beside what it holds.

    >>> length_chunks([9, 3, 9, 2], tokens_per_call=4)
    [[0, 2], [1, 3]]
    >>> length_chunks([9, 3, 9, 2], tokens_per_call=50)
    [[0, 2, 1, 3]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    widths = np.asarray(lengths)[order]
    ends = np.arange(len(order) + 1)
    best, starts = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in ends[1:]:
        costs = best[:end] + (end - ends[:end]) * widths[:end] + tokens_per_call
        starts[end] = costs.argmin()
        best[end] = costs[starts[end]]
    chunks, end = [], len(order)
    while end > 0:
        start = int(starts[end])
        chunks.append(order[start:end].tolist())
        end = start
    return chunks[::-1]
