"""Which rows make a batch: a fresh order per epoch keyed by (seed, epoch), dealt out to the ranks."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochSampler", "heldout_batches", "row_order"]


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
    """

    def __init__(
        self, num_rows: int, batch_size: int, *, seed: int, rank: int = 0, num_ranks: int = 1, shuffle: bool = True
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.shuffle = shuffle
        self.epoch = 0

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
        order = (
            row_order(self.seed, "rows", self.epoch, self.num_rows)
            if self.shuffle
            else np.arange(self.num_rows, dtype=np.int64)
        )
        last = min(end * self.batch_size, self._rows_per_rank)
        places = np.arange(start * self.batch_size * self.num_ranks, last * self.num_ranks) % self.num_rows
        return order[places].reshape(-1, self.num_ranks)


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
