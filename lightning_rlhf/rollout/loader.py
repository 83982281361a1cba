"""The train loader of PPO: an iteration's rollout, then its minibatches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.arguments import require, require_at_least
from lightning_rlhf.batches import DemonstrationBatch, MinibatchIndices, Rollout
from lightning_rlhf.checkpoints.changed_arguments import require_unchanged
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout.buffer import minibatches, rollout_from_state, rollout_state

__all__ = ["RolloutLoader"]

_LAYOUT = ("rows of a rollout", "minibatch_size", "num_epochs")


class RolloutLoader:
    """Collects a rollout and yields the minibatches of `num_epochs` passes over it, by their indices only.

    One pass over the loader is one PPO iteration. A pass that was cut short is not continued: the next one starts the
    next iteration, unless a saved state was loaded.

    Args:
        collect: collects the rollout of an iteration; called at the first `next`, not before.
        num_rows: rows of a rollout on this rank.
        minibatch_size: rows of a minibatch.
        num_epochs: passes over a rollout, each in a fresh order.
        accumulate: gives the minibatches per optimizer step, asked at each; the last of an iteration may take fewer.
        seed: the run's seed.
        next_iteration: number of the iteration that begins; default: the loader counts for itself. Under a Trainer give
            its `current_epoch`: from a checkpoint of an epoch's end it resumes without a loader's state.
        limit: as the Trainer's `limit_train_batches`: a number of minibatches, or a share of them as a float.
        reduce: sum of an int64 tensor over all ranks.
        gather: what every rank gives, in the order of ranks, to all of them; for checkpoints.
        rank: this rank.
        ptx: pretraining rows for a step, counted over the run, and a number of rows.
        settings: what else the updates on a rollout must have as its collection had it, by argument.
        is_in_epoch: whether the run whose state is loaded stands within an iteration; default: if it holds a rollout.

    Raises:
        ConfigError: a number is below 1.
    """

    def __init__(
        self,
        collect: Callable[[int], Rollout],
        *,
        num_rows: int,
        minibatch_size: int,
        num_epochs: int,
        accumulate: Callable[[], int] = lambda: 1,
        seed: int = 0,
        next_iteration: Callable[[], int] | None = None,
        limit: int | float = 1.0,
        reduce: Callable[[Tensor], Tensor] = lambda total: total,
        gather: Callable[[Any], Sequence[Any]] = lambda own: [own],
        rank: int = 0,
        ptx: Callable[[int, int], DemonstrationBatch] | None = None,
        settings: Mapping[str, Any] | None = None,
        is_in_epoch: Callable[[], bool] | None = None,
    ) -> None:
        require(num_rows >= 1, "the rows of a rollout", "be at least 1", num_rows)
        require_at_least(1, minibatch_size=minibatch_size, num_epochs=num_epochs)
        self.collect = collect
        self.num_rows = num_rows
        self.minibatch_size = minibatch_size
        self.num_epochs = num_epochs
        self.accumulate = accumulate
        self.seed = seed
        self.next_iteration = next_iteration
        self.limit = limit
        self.reduce = reduce
        self.gather = gather
        self.rank = rank
        self.ptx = ptx
        self.settings = dict(settings or {})
        self.is_in_epoch = is_in_epoch
        self.iteration = 0
        """The iteration that runs, or comes next."""
        self.position = 0
        """Minibatches handed out in this iteration."""
        self.rollout: Rollout | None = None
        """What the indices point into."""
        self._resumes = False

    def __len__(self) -> int:
        return self.num_epochs * -(-self.num_rows // self.minibatch_size)

    @property
    def num_steps(self) -> int:
        """Minibatches that an iteration really hands out: the length, or less by `limit`."""
        return int(len(self) * self.limit) if isinstance(self.limit, float) else min(self.limit, len(self))

    def __iter__(self) -> Iterator[MinibatchIndices]:
        # a generator: nothing below runs before the first `next`, and a second `iter` costs nothing
        if self._resumes:
            self._resumes = False
        else:
            self.iteration, self.position = self._next_start()
            if self.next_iteration is not None:
                self.iteration = self.next_iteration()
            self.rollout = None  # frees the last rollout before the next one is there
        rollout = self.rollout if self.rollout is not None else self._collected()
        self.rollout = rollout
        yield from self._handed_out(rollout)

    def rows_of(self, position: int) -> list[int]:
        """Row numbers of a minibatch of the current iteration."""
        rows: list[int] = self._minibatches()[position].tolist()
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, within an iteration with the rollouts of all ranks; every rank calls it."""
        iteration, position = self._next_start() if self._is_over() else (self.iteration, self.position)
        own = rollout_state(self.rollout) if position and self.rollout is not None else None
        return {
            "iteration": iteration,
            "position": position,
            "layout": self._layout(),
            "rollouts": [] if own is None else list(self.gather(own)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a saved loader stood.

        Raises:
            ConfigError: the state stands in the middle of an iteration of other settings or of another number of ranks.
        """
        rollouts, layout = state["rollouts"], state["layout"]
        if not isinstance(layout, Mapping):  # of an earlier version
            layout = dict(zip(_LAYOUT, layout, strict=True))
        if rollouts or (self.is_in_epoch is not None and self.is_in_epoch()):
            require_unchanged(
                "a run that is resumed within an iteration",
                layout,
                self._layout(),
                "Resume with the same, or from a checkpoint of an iteration's end.",
            )
        if rollouts:
            num_ranks = len(self.gather(self.rank))
            if len(rollouts) != num_ranks:
                raise ConfigError(
                    f"a run that was cut off within an iteration must be resumed on {len(rollouts)} ranks, "
                    f"got {num_ranks}. Resume from a checkpoint of an iteration's end instead."
                )
        self.iteration, self.position = state["iteration"], state["position"]
        self.rollout = rollout_from_state(rollouts[self.rank]) if rollouts else None
        self._resumes = self.rollout is not None

    def _layout(self) -> dict[str, Any]:
        own = zip(_LAYOUT, (self.num_rows, self.minibatch_size, self.num_epochs), strict=True)
        return {**dict(own), "seed": self.seed, **self.settings}

    def _is_over(self) -> bool:
        return self.position >= self.num_steps

    def _next_start(self) -> tuple[int, int]:
        return (self.iteration + 1, 0) if self.position else (self.iteration, 0)

    def _collected(self) -> Rollout:
        rollout = self.collect(self.iteration)
        if len(rollout.response_ids) != self.num_rows:
            raise ConfigError(f"a rollout must have {self.num_rows} rows, got {len(rollout.response_ids)}.")
        return rollout

    def _handed_out(self, rollout: Rollout) -> Iterator[MinibatchIndices]:
        steps = self._minibatches()
        lengths = rollout.loss_mask.sum(-1)
        while self.position < len(steps):
            # a window may have begun before a resume: its first minibatches count, but are not handed out again
            size = self.accumulate()
            start = self.position - self.position % size
            window = steps[start : start + size]
            ptx = self._ptx_window(start, window)
            counts = torch.stack([torch.stack([lengths[rows].sum() for rows in window]).sum(), *_ptx_counts(ptx)])
            num_targets, ptx_targets, ptx_tokens = self.reduce(counts).cpu().unbind()
            for index in range(self.position - start, len(window)):
                batch = ptx[index]
                if batch is not None:
                    batch = batch._replace(num_targets=ptx_targets, num_tokens=ptx_tokens)
                # before the yield: a checkpoint that is written in this step says that it was handed out
                self.position = start + index + 1
                yield MinibatchIndices(window[index], num_targets, batch)

    def _minibatches(self) -> list[Tensor]:
        steps = minibatches(
            self.seed, self.iteration, num_rows=self.num_rows, size=self.minibatch_size, num_epochs=self.num_epochs
        )
        return steps[: self.num_steps]

    def _ptx_window(self, start: int, window: Sequence[Tensor]) -> list[DemonstrationBatch | None]:
        if self.ptx is None:
            return [None] * len(window)
        first = self.iteration * len(self) + start
        return [self.ptx(first + index, self.minibatch_size) for index in range(len(window))]


def _ptx_counts(batches: Sequence[DemonstrationBatch | None]) -> tuple[Tensor, Tensor]:
    """Supervised tokens and tokens of a window's pretraining rows, on this rank."""
    zero = torch.zeros((), dtype=torch.int64)
    held = [batch for batch in batches if batch is not None]
    return sum((batch.num_targets for batch in held), zero), sum((batch.num_tokens for batch in held), zero)
