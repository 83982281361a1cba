"""Elo ratings from the comparisons that rankings imply."""

import math

import numpy as np

from lightning_rlhf.errors import ConfigError
from lightning_rlhf_rankings.aggregation import AggregatingConverter, Array
from lightning_rlhf_rankings.bradley_terry import preferred
from lightning_rlhf_rankings.flow import flowed

__all__ = ["EloConverter"]

_POINTS = 400 / math.log(10)
"""Elo points per unit of log-odds."""


class EloConverter(AggregatingConverter):
    r"""Elo ratings (Elo, 1978) after every annotator's comparisons, all candidates equal at first.

    A comparison moves a candidate by `k_factor * (outcome - expected outcome)` points, the outcome 1 for the better
    place, 1/2 for a tie, 0 for the worse. The comparisons are not rated one after the other but all at once, in
    infinitely small parts, so that no order of annotators or candidates exists. More comparisons lead away from 0,
    towards the utilities of Bradley-Terry. Elo defines no standard errors.

    Args:
        k_factor: how many points a comparison moves a candidate by at most. 400 points are odds of 10 to 1; the rewards
            are log-odds, `points * ln(10) / 400`.
    """

    def __init__(self, k_factor: float = 32.0) -> None:
        if not 0 < k_factor < math.inf:
            raise ConfigError(f"k_factor must be above 0, got {k_factor}.")
        self.k_factor = k_factor

    def _fit(self, ranks: Array) -> tuple[Array, None]:
        before, after = ranks[:, :, None], ranks[:, None, :]
        outcomes = np.sum((before < after) + 0.5 * (before == after), axis=0)
        np.fill_diagonal(outcomes, 0)
        comparisons = outcomes + outcomes.T

        def update(utilities: Array) -> Array:
            surprise = np.sum(outcomes - comparisons * preferred(utilities), axis=1)
            return np.asarray(self.k_factor / _POINTS * surprise)

        return flowed(np.zeros(ranks.shape[1]), update), None
