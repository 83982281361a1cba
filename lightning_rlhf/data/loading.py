"""Loaders: sized, sharded by rank, and for training stateful with the window's denominators on every batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from lightning_rlhf.checkpoints.changed_arguments import require_unchanged
from lightning_rlhf.data.sampling import EpochSampler
from lightning_rlhf.data.storage import StoredRows, shown_rows

__all__ = ["BatchLoader", "WindowLoader"]

Collate = Callable[[Sequence[Any]], Any]


class BatchLoader:
    """Fixed batches in a fixed order: for validation, test and prediction.

    Args:
        rows: what holds the rows, indexed by position.
        batches: positions of the rows of each batch.
        collate: rows to a batch.
        num_workers: processes that load ahead; 0 loads in this one.
    """

    def __init__(self, rows: Any, batches: Sequence[Sequence[int]], collate: Collate, num_workers: int = 0) -> None:
        self.rows = rows
        self.batches = batches
        self._collate = collate
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(_torch_loader(self.rows, self.batches, self._collate, self._num_workers))


class WindowLoader:
    """Training batches, each with the counts of its whole accumulation window over all ranks.

    A loss that is a sum over tokens or prompts must be divided by how many there are in everything that one optimizer
    step sees. The order of the rows and each row's counts are known before anything is loaded, so that every rank works
    the window's counts out for itself; nothing is sent. A short last window is counted as what it is.

    Sized, so that Lightning does not fetch ahead; `state_dict` and `load_state_dict` carry the position, so that a
    resumed run sees exactly the batches that are left of the epoch.

    Args:
        rows: the tokenized rows.
        sampler: which rows make a batch.
        collate: rows to a batch, a named tuple with a field for each of `count_names`.
        count_names: columns of `rows` that are summed over a window.
        window: batches per optimizer step; asked anew at the start of each window.
        limit: batches per epoch at most (`limit_train_batches`); asked at the start of an epoch.
        is_in_epoch: whether the run whose state is loaded stands within an epoch; default: as the position says.
        num_workers: processes that load ahead; 0 loads in this one.
    """

    def __init__(
        self,
        rows: StoredRows,
        sampler: EpochSampler,
        collate: Collate,
        *,
        count_names: Sequence[str],
        window: Callable[[], int] = lambda: 1,
        limit: Callable[[], float] = lambda: float("inf"),
        is_in_epoch: Callable[[], bool] | None = None,
        num_workers: int = 0,
    ) -> None:
        self.rows = rows
        self.batch_sampler = _SamplerHolder(sampler)
        self._sampler = sampler
        self._collate = collate
        self._counts = {name: rows.counts(name) for name in count_names}
        self._window = window
        self._limit = limit
        self._is_in_epoch = is_in_epoch
        self._num_workers = num_workers
        self._epoch = 0
        self._position = 0
        self._restored = False

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        """Nothing happens before the first batch is asked for: only then epoch, limit and position are final."""
        epoch = self._sampler.epoch
        start = self._position if self._restored and self._epoch == epoch else 0
        self._restored = False
        end = int(min(len(self), self._limit()))
        window_end = start
        counts: Mapping[str, torch.Tensor] = {}
        loader = _torch_loader(self.rows, self._sampler.batches(start, end), self._collate, self._num_workers)
        for position, batch in enumerate(loader, start):
            if position >= window_end:
                size = self._window()
                window_start = position - position % size
                window_end = min(window_start + size, end)
                counts = self._window_counts(window_start, window_end)
            # before the batch is handed out: a checkpoint that is written after its step must not hold it again
            self._epoch, self._position = epoch, position + 1
            yield batch._replace(**counts)

    def places(self, position: int) -> list[str]:
        """File and line of the rows of a batch of the current epoch."""
        return self.rows.places(next(self._sampler.batches(position, position + 1)))

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches that were handed out in it, and what their order follows from."""
        return {"epoch": self._epoch, "position": self._position, "num_batches": len(self), "order": self._order()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next pass over this epoch begins where the saved one stopped.

        Raises:
            ConfigError: the epoch was cut in another way or is one of other rows, so that the position means nothing.
        """
        unfinished = 0 < state["position"] < state["num_batches"]
        if unfinished if self._is_in_epoch is None else self._is_in_epoch():
            require_unchanged(
                "a run that is resumed in the middle of an epoch",
                {"batches per epoch": state["num_batches"], **state.get("order", {})},
                {"batches per epoch": len(self), **self._order()},
                "Resume with the same, or from a checkpoint of an epoch's end.",
            )
        self._epoch, self._position, self._restored = state["epoch"], state["position"], True

    def _order(self) -> dict[str, Any]:
        sampler = self._sampler
        return {
            "training rows": shown_rows(self.rows),
            "batch_size over all processes": sampler.batch_size * sampler.num_ranks,
            "seed": sampler.seed,
            "shuffled": sampler.shuffle,
            "grouped by length": sampler.lengths is not None,
        }

    def _window_counts(self, start: int, end: int) -> dict[str, torch.Tensor]:
        rows = self._sampler.global_rows(start, end)
        return {name: torch.tensor(int(counts[rows].sum())) for name, counts in self._counts.items()}


class _SamplerHolder(NamedTuple):
    """Where Lightning looks for a sampler whose `set_epoch` it calls."""

    sampler: EpochSampler


def _torch_loader(rows: Any, batches: Iterable[Any], collate: Collate, num_workers: int) -> DataLoader[Any]:
    # a generator of its own: the loader draws a seed for its workers, and must not draw it from the global one, which a
    # resumed run finds in another state
    return DataLoader(
        rows,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),
    )
