"""Plackett-Luce utilities from whole rankings."""

import choix
import numpy as np
from numpy.typing import NDArray

from lightning_rlhf_rankings.aggregation import AggregatingConverter, Array, centred_errors
from lightning_rlhf_rankings.likelihood import TOLERANCE, checked_regularization, polished

__all__ = ["PlackettLuceMLConverter"]


class PlackettLuceMLConverter(AggregatingConverter):
    r"""The utilities under which the annotators' rankings are likeliest (Luce, 1959; Plackett, 1975), with errors.

    Maximises, over annotators and the candidates that each of them ranked,
    `sum of u_i - logsumexp({u_i} and all u_j ranked behind i) - regularization / 2 * sum of u_i^2`. Tied candidates are
    not compared with each other, as in the Plackett-Luce loss of a reward model.

    Args:
        regularization: weight of the last term, which keeps a candidate that always comes first finite; 1 over the
            variance of utilities that is expected beforehand.
    """

    def __init__(self, regularization: float = 0.1) -> None:
        self.regularization = checked_regularization(regularization)

    def _fit(self, ranks: Array) -> tuple[Array, Array]:
        num_candidates = ranks.shape[1]
        choices = _choices(ranks)
        # choix's penalty is alpha times the squares.
        data = [(winner, tuple(np.flatnonzero(losers).tolist())) for winner, losers in choices]
        utilities = (
            choix.opt_top1(num_candidates, data, alpha=self.regularization / 2, tol=TOLERANCE)
            if data
            else np.zeros(num_candidates)
        )
        winners = np.array([winner for winner, _ in choices], dtype=np.intp)
        offered = np.array([losers for _, losers in choices]).reshape(len(choices), num_candidates)
        offered[np.arange(len(choices)), winners] = True
        num_won = np.bincount(winners, minlength=num_candidates)

        def gradient(utilities: Array) -> Array:
            expected = np.sum(_chosen(utilities, offered), axis=0)
            return np.asarray(num_won - expected - self.regularization * utilities)

        def hessian(utilities: Array) -> Array:
            chosen = _chosen(utilities, offered)
            return np.asarray(np.diag(np.sum(chosen, axis=0) + self.regularization) - chosen.T @ chosen)

        utilities = polished(utilities, gradient, hessian)
        return utilities, centred_errors(np.linalg.inv(hessian(utilities)))


def _choices(ranks: Array) -> list[tuple[int, NDArray[np.bool_]]]:
    """Each ranked candidate with those behind it, where there are any."""
    behind = ranks[:, None, :] > ranks[:, :, None]
    annotators, winners = np.nonzero(behind.any(axis=2))
    return [(int(winner), behind[annotator, winner]) for annotator, winner in zip(annotators, winners, strict=True)]


def _chosen(utilities: Array, offered: NDArray[np.bool_]) -> Array:
    """Probability of each candidate to be chosen from those offered, one row per choice."""
    weights = np.where(offered, np.exp(utilities - np.max(utilities, initial=-np.inf)), 0)
    return np.asarray(weights / np.sum(weights, axis=1, keepdims=True))
