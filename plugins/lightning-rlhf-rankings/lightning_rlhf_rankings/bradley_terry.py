"""Bradley-Terry utilities from the comparisons that rankings imply."""

import choix
import numpy as np

from lightning_rlhf_rankings.aggregation import AggregatingConverter, Array, centred_errors
from lightning_rlhf_rankings.likelihood import TOLERANCE, checked_regularization, polished

__all__ = ["BradleyTerryMLConverter"]


class BradleyTerryMLConverter(AggregatingConverter):
    r"""The utilities under which the annotators' comparisons are likeliest (Bradley and Terry, 1952), with errors.

    Maximises `sum over pairs of w_ij log sigmoid(u_i - u_j) - regularization / 2 * sum of u_i^2`, `w_ij` the number of
    annotators that put i before j, a tie counting one half to each side. A ranking of m candidates is m (m-1) / 2
    comparisons; the standard errors know that these are not independent.

    Args:
        regularization: weight of the second term, which keeps a candidate that wins every comparison finite; 1 over
            the variance of utilities that is expected beforehand.
    """

    def __init__(self, regularization: float = 0.1) -> None:
        self.regularization = checked_regularization(regularization)

    def _fit(self, ranks: Array) -> tuple[Array, Array]:
        before, after = ranks[:, :, None], ranks[:, None, :]
        # Every comparison twice, so that the half wins of a tie are whole numbers.
        doubled = np.sum(2 * (before < after) + (before == after), axis=0)
        np.fill_diagonal(doubled, 0)
        data = [(i, j) for i, j in np.argwhere(doubled).tolist() for _ in range(doubled[i, j])]
        # choix's penalty is alpha times the squares, against twice the log-likelihood.
        utilities = (
            choix.opt_pairwise(len(doubled), data, alpha=self.regularization, tol=TOLERANCE)
            if data
            else np.zeros(len(doubled))
        )
        wins = doubled / 2
        utilities = polished(utilities, lambda u: self._gradient(u, wins), lambda u: self._hessian(u, wins))
        inverse = np.linalg.inv(self._hessian(utilities, wins))
        variance = self.regularization * np.eye(len(wins))
        for row in ranks:
            ranked = np.flatnonzero(~np.isnan(row))
            variance[np.ix_(ranked, ranked)] += score_covariance(utilities[ranked])
        return utilities, centred_errors(inverse @ variance @ inverse)

    def _gradient(self, utilities: Array, wins: Array) -> Array:
        expected = (wins + wins.T) * preferred(utilities)
        return np.asarray(np.sum(wins - expected, axis=1) - self.regularization * utilities)

    def _hessian(self, utilities: Array, wins: Array) -> Array:
        probabilities = preferred(utilities)
        curvature = (wins + wins.T) * probabilities * probabilities.T
        return np.asarray(np.diag(np.sum(curvature, axis=1) + self.regularization) - curvature)


def preferred(utilities: Array) -> Array:
    """`sigmoid(u_i - u_j)`: how probably i is put before j."""
    return np.asarray(np.exp(-np.logaddexp(0, utilities - utilities[:, None])))


def score_covariance(utilities: Array) -> Array:
    r"""Covariance of `g_i = sum over j of 1[i before j]` over rankings drawn from the Plackett-Luce model.

    Comparisons that one ranking implies share candidates and are therefore not independent. Under Plackett-Luce, i
    comes before both j and k with probability `w_i / (w_i + w_j + w_k)`, `w = exp(u)`, and comparisons without a common
    candidate are independent, which gives every term. The marginals of Plackett-Luce are Bradley-Terry's comparisons,
    so that both have the same utilities (Luce, 1959).

    Args:
        utilities: `(m,)`, of the candidates that the annotator ranked.
    """
    weights = np.exp(utilities - np.max(utilities))
    pair = preferred(utilities)
    first_of_three = weights[:, None, None] / (weights[:, None, None] + weights[:, None] + weights)
    # shared[i, j, k]: covariance of 1[i before j] and 1[i before k]; nothing where i is compared with itself.
    shared = first_of_three - pair[:, :, None] * pair[:, None, :]
    each, variances = np.arange(len(weights)), pair * pair.T
    shared[:, each, each] = variances
    shared[each, each, :] = 0
    shared[each, :, each] = 0
    np.fill_diagonal(variances, 0)
    rows = np.sum(shared, axis=2)
    covariance = variances - rows - rows.T + np.sum(shared, axis=0)
    # That holds off the diagonal, where g_i and g_k share the comparison of i with k.
    covariance[each, each] = np.sum(rows, axis=1)
    return np.asarray(covariance)
