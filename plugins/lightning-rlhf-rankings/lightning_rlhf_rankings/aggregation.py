"""What the converters of this package share: the shape of the work, and what they give."""

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf import RankingConverter

__all__ = ["AggregatingConverter", "Array", "Estimate", "centred_errors"]

Array = NDArray[np.floating[Any]]

# Two candidates that the annotators treat alike differ in the last bits of a sum, which must not break their tie.
_DECIMALS = 8


class Estimate(NamedTuple):
    """What a converter makes of one prompt's ranks.

    Args:
        rewards: `(num_candidates,)`, in log-odds: a difference of 1 is a candidate preferred in 73 of 100 comparisons.
            They sum to 0; nan where nobody ranked.
        standard_errors: `(num_candidates,)`, in the unit of the rewards, nan where nobody ranked; None where the method
            defines none.
    """

    rewards: Array
    standard_errors: Array | None


class AggregatingConverter(RankingConverter):
    """Base of the converters that fit one utility per candidate to all annotators at once."""

    def __call__(self, ranks: Array) -> Array:
        """Rewards `(num_candidates,)` of ranks `(num_annotators, num_candidates)`, nan where nobody ranked."""
        return self.estimate(ranks).rewards

    def estimate(self, ranks: Array) -> Estimate:
        """Rewards with their standard errors.

        Args:
            ranks: `(num_annotators, num_candidates)`, 0 = best, ties equal, nan = unranked.

        Raises:
            ValueError: the ranks have another shape.
        """
        ranks = np.atleast_2d(np.asarray(ranks, dtype=np.float64))
        if ranks.ndim != 2 or ranks.shape[0] == 0:
            raise ValueError(f"ranks must have the shape (num_annotators, num_candidates), got {ranks.shape}.")
        ranked = np.flatnonzero(~np.isnan(ranks).all(axis=0))
        # In one order, whatever the order of candidates and annotators was: sums then differ by candidate alone.
        ranked = ranked[np.lexsort(np.sort(ranks[:, ranked], axis=0))]
        table = ranks[:, ranked]
        table = table[np.lexsort(table.T)] if table.size else table
        compared = table[np.count_nonzero(~np.isnan(table), axis=1) >= 2]
        utilities, errors = self._fit(compared)
        rewards = _spread(utilities - np.mean(utilities) if utilities.size else utilities, ranked, ranks.shape[1])
        return Estimate(rewards, None if errors is None else _spread(errors, ranked, ranks.shape[1]))

    @abstractmethod
    def _fit(self, ranks: Array) -> tuple[Array, Array | None]:
        """Utilities and their errors, from annotators that ranked two candidates or more (perhaps none)."""


def centred_errors(covariance: Array) -> Array:
    """Standard errors of utilities less their mean, from the covariance of the utilities."""
    num_candidates = len(covariance)
    centre = np.eye(num_candidates) - 1 / max(num_candidates, 1)
    return np.asarray(np.sqrt(np.maximum(np.diag(centre @ covariance @ centre), 0)))


def _spread(values: Array, places: NDArray[np.intp], length: int) -> Array:
    spread = np.full(length, np.nan)
    spread[places] = np.round(values, _DECIMALS) + 0.0  # adding 0 makes -0 a plain 0
    return spread
