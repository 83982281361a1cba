"""Built-in ranking converters: the places that annotators gave to the rewards that a model can learn.

All of them are finite for every candidate that somebody ranked and nan for the others; equal places give equal rewards.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.arguments import require_positive
from lightning_rlhf.plugin_system.interfaces import RankingConverter

__all__ = ["BordaConverter", "BradleyTerryConverter", "LinearConverter", "ZScoreConverter"]

Array = NDArray[np.floating[Any]]

# Sums over annotators in another order differ in their last bits, which must not break a tie.
_DECIMALS = 10
_MAX_NEWTON_STEPS = 200


class LinearConverter(RankingConverter):
    """Evenly spaced from 1 for the best place to -1 for the last, mean over the annotators.

    An annotator's dense ranks `0..m-1` become `1 - 2 i / (m - 1)`, 0 if `m = 1`.

    >>> LinearConverter()(np.array([[0.0, 2.0, 1.0, np.nan]]))
    array([ 1., -1.,  0., nan])
    """

    def __call__(self, ranks: Array) -> Array:
        """Rewards `(num_candidates,)` of ranks `(num_annotators, num_candidates)`."""
        ranks = _annotators(ranks)
        return _mean_over_annotators(np.stack([self._rewards(row) for row in ranks]))

    @staticmethod
    def _rewards(ranks: Array) -> Array:
        places = _dense(ranks)
        last = np.nanmax(places, initial=0.0)
        return 1 - 2 * places / last if last > 0 else 0 * places


class BordaConverter(RankingConverter):
    """Share of the other candidates that one beats less the share that it loses to, mean over the annotators.

    >>> BordaConverter()(np.array([[0.0, 1.0, 1.0]]))
    array([ 1. , -0.5, -0.5])
    """

    def __call__(self, ranks: Array) -> Array:
        """Rewards `(num_candidates,)` of ranks `(num_annotators, num_candidates)`."""
        ranks = _annotators(ranks)
        return _mean_over_annotators(np.stack([self._rewards(row) for row in ranks]))

    @staticmethod
    def _rewards(ranks: Array) -> Array:
        balance = np.sum(ranks[:, None] < ranks, axis=1) - np.sum(ranks[:, None] > ranks, axis=1)
        num_others = max(np.count_nonzero(~np.isnan(ranks)) - 1, 1)
        return np.where(np.isnan(ranks), np.nan, balance / num_others)


class ZScoreConverter(RankingConverter):
    """Dense ranks less their mean, over their deviation, turned round; mean over the annotators.

    >>> ZScoreConverter()(np.array([[0.0, 1.0]]))
    array([ 1., -1.])
    """

    def __call__(self, ranks: Array) -> Array:
        """Rewards `(num_candidates,)` of ranks `(num_annotators, num_candidates)`."""
        ranks = _annotators(ranks)
        return _mean_over_annotators(np.stack([self._rewards(row) for row in ranks]))

    @staticmethod
    def _rewards(ranks: Array) -> Array:
        places = _dense(ranks)
        ranked = places[~np.isnan(places)]
        if ranked.size == 0 or ranked.max() == 0:
            return 0 * places
        return np.asarray((ranked.mean() - places) / ranked.std())


class BradleyTerryConverter(RankingConverter):
    r"""The strengths under which the annotators' comparisons are likeliest (Bradley and Terry, 1952).

    Maximises `sum over pairs of w_ij log sigmoid(r_i - r_j) - regularization / 2 * sum of r_i^2`, `w_ij` the number of
    annotators that put i before j, a tie counting one half to each side. The second term keeps a candidate that wins
    every comparison finite; the rewards of a prompt sum to 0.

    Args:
        regularization: weight of the second term; more pulls the rewards together.
    """

    def __init__(self, regularization: float = 0.1) -> None:
        require_positive(regularization=regularization)
        self.regularization = regularization

    def __call__(self, ranks: Array) -> Array:
        """Rewards `(num_candidates,)` of ranks `(num_annotators, num_candidates)`."""
        ranks = _annotators(ranks)
        before, after = ranks[:, :, None], ranks[:, None, :]
        wins = np.sum(before < after, axis=0) + np.sum(before == after, axis=0) / 2
        np.fill_diagonal(wins, 0)
        unranked = np.isnan(ranks).all(axis=0)
        return _rounded(np.where(unranked, np.nan, self._strengths(wins)))

    def _strengths(self, wins: Array) -> Array:
        """Newton's method with halved steps; the objective is strictly concave, so the maximum is one."""
        comparisons = wins + wins.T
        strengths = np.zeros(len(wins))
        value = self._objective(strengths, wins)
        for _ in range(_MAX_NEWTON_STEPS):
            expected = np.exp(-np.logaddexp(0, strengths - strengths[:, None]))  # sigmoid(r_i - r_j)
            gradient = np.sum(wins - comparisons * expected, axis=1) - self.regularization * strengths
            curvature = comparisons * expected * expected.T
            hessian = np.diag(curvature.sum(axis=1) + self.regularization) - curvature
            step = np.linalg.solve(hessian, gradient)
            if np.max(np.abs(step), initial=0) < 1e-13:
                break
            size = 1.0
            while size > 1e-6 and self._objective(strengths + size * step, wins) < value:
                size /= 2
            strengths = strengths + size * step
            value = self._objective(strengths, wins)
        return strengths

    def _objective(self, strengths: Array, wins: Array) -> float:
        log_likelihood = -np.sum(wins * np.logaddexp(0, strengths - strengths[:, None]))
        return float(log_likelihood - self.regularization / 2 * np.sum(strengths**2))


def _annotators(ranks: Array) -> Array:
    """Ranks as float64 `(num_annotators, num_candidates)`."""
    ranks = np.atleast_2d(np.asarray(ranks, dtype=np.float64))
    if ranks.ndim != 2 or ranks.shape[0] == 0:
        raise ValueError(f"ranks must have the shape (num_annotators, num_candidates), got {ranks.shape}.")
    return ranks


def _dense(ranks: Array) -> Array:
    """One annotator's ranks as 0..m-1 without gaps."""
    places = np.full(ranks.shape, np.nan)
    ranked = ~np.isnan(ranks)
    places[ranked] = np.unique(ranks[ranked], return_inverse=True)[1]
    return places


def _mean_over_annotators(rewards: Array) -> Array:
    counts = np.count_nonzero(~np.isnan(rewards), axis=0)
    totals = np.nansum(rewards, axis=0)
    return _rounded(np.where(counts > 0, totals / np.maximum(counts, 1), np.nan))


def _rounded(rewards: Array) -> Array:
    return np.asarray(np.round(rewards, _DECIMALS) + 0.0)  # adding 0 makes -0 a plain 0
