"""Which rows make a batch: a fresh order per epoch keyed by (seed, epoch), dealt out to the ranks."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochSampler", "grouped_order", "heldout_batches", "row_order"]


@lru_cache(maxsize=4)
def row_order(seed: int, purpose: str, epoch: int, num_rows: int) -> NDArray[np.int64]:
    """A random order of `0 … num_rows - 1` that depends on nothing but the arguments. Not to be written to.

    Raw Philox bits: NumPy keeps those the same over its releases, its distributions it does not.
    """
    digest = hashlib.sha256(f"data:{seed}:{purpose}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    bits = np.random.Philox(counter=np.array([0, 0, epoch, 0], dtype=np.uint64), key=key).random_raw(num_rows)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


_BATCHES_PER_GROUP = 50
"""Rows are sorted among so many batches' worth: little padding is left, and who meets whom stays mostly chance."""


def grouped_order(
    order: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int, batch_order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Puts rows of similar length into the same batch: the order is sorted piece by piece, then its batches are mixed.

    Args:
        order: a random order of all rows.
        lengths: tokens of each row.
        batch_size: rows of a batch over all ranks.
        batch_order: a random order of the whole batches; rows that fill none stay last.

    >>> grouped_order(np.arange(5), np.array([9, 1, 8, 2, 7]), 2, np.array([1, 0])).tolist()
    [4, 2, 1, 3, 0]
    """
    size = batch_size * _BATCHES_PER_GROUP
    pieces = [order[start : start + size] for start in range(0, len(order), size)]
    in_pieces = np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
    whole = len(batch_order) * batch_size
    return np.concatenate([in_pieces[:whole].reshape(-1, batch_size)[batch_order].ravel(), in_pieces[whole:]])


class EpochSampler:
    """Training batches of one rank, equally many on every rank.

    The order is dealt out row by row, so that batch i of all ranks together is batch i of one process with a batch that
    many times larger. Where the rows do not come out even, the first of the order come up a second time at its end.

    Args:
        num_rows: rows of the split.
        batch_size: rows per batch and rank; the last batch of an epoch may be smaller.
        seed: the run's seed.
        rank: this rank.
        num_ranks: ranks that see different rows.
        shuffle: False keeps the split's own order in every epoch.
        lengths: tokens of each row, to shuffle so that rows of similar length share a batch; None: length plays no
            part.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        shuffle: bool = True,
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.shuffle = shuffle
        self.lengths = lengths
        self.epoch = 0
        self._grouped: tuple[int, NDArray[np.int64]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        return -(-self._rows_per_rank // self.batch_size)

    def batches(self, start: int, end: int) -> Iterator[list[int]]:
        """This rank's batches from `start` up to `end` of the current epoch."""
        for place in range(start, end):
            yield self._dealt(place, place + 1)[:, self.rank].tolist()

    def global_rows(self, start: int, end: int) -> NDArray[np.int64]:
        """The rows of those batches on all ranks."""
        return self._dealt(start, end).ravel()

    @property
    def _rows_per_rank(self) -> int:
        return -(-self.num_rows // self.num_ranks)

    def _dealt(self, start: int, end: int) -> NDArray[np.int64]:
        """`(rows, ranks)`: what each rank gets."""
        order = self._order()
        last = min(end * self.batch_size, self._rows_per_rank)
        places = np.arange(start * self.batch_size * self.num_ranks, last * self.num_ranks) % self.num_rows
        return order[places].reshape(-1, self.num_ranks)

    def _order(self) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_rows, dtype=np.int64)
        order = row_order(self.seed, "rows", self.epoch, self.num_rows)
        if self.lengths is None:
            return order
        if self._grouped is None or self._grouped[0] != self.epoch:
            size = self.batch_size * self.num_ranks
            batch_order = row_order(self.seed, "batches", self.epoch, self.num_rows // size)
            self._grouped = self.epoch, grouped_order(order, self.lengths, size, batch_order)
        return self._grouped[1]


def heldout_batches(num_rows: int, batch_size: int, *, rank: int = 0, num_ranks: int = 1) -> list[list[int]]:
    """Batches of one rank that together with those of the others hold every row exactly once.

    Every rank gets equally many, none of them empty, so that collective calls in the forward pass stay in step: where
    the rows do not come out even, batches differ by a row in size.

    Args:
        num_rows: rows of the split, at least one per rank.
        batch_size: rows per batch.
        rank: this rank.
        num_ranks: ranks that see different rows.

    >>> heldout_batches(5, 2, rank=0, num_ranks=2), heldout_batches(5, 2, rank=1, num_ranks=2)
    ([[0, 2], [4]], [[1], [3]])
    """
    most = -(-num_rows // num_ranks)
    num_batches = min(-(-most // batch_size), num_rows // num_ranks)
    return [part.tolist() for part in np.array_split(np.arange(rank, num_rows, num_ranks), num_batches)]
