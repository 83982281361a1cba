"""The contract of ranking converters."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.testing.contract import Contract, described

__all__ = ["RankingConverterContract"]

Array = NDArray[np.floating[Any]]

_NAN = float("nan")
# Likelihoods are maximised to a few digits; what should be equal may differ in those that are left.
_TOLERANCE = 1e-4


class RankingConverterContract(Contract[RankingConverter]):
    """What every ranking converter must do.

    Example:
        class TestElo(RankingConverterContract):
            component = "elo"
    """

    __test__ = False
    kind = "ranking_converter"

    def test_gives_one_finite_reward_per_ranked_candidate(self) -> None:
        """And nan for the others."""
        converter = self.make()
        for ranks in _examples():
            self.rewards(converter, ranks)

    def test_gives_the_same_rewards_again(self) -> None:
        """From the same converter, and from another instance."""
        converter = self.make()
        for ranks in _examples():
            first = self.rewards(converter, ranks)
            for again in (self.rewards(converter, ranks), self.rewards(self.make(), ranks)):
                assert np.array_equal(first, again, equal_nan=True), (
                    f"{self.subject} must be deterministic, got {_shown(first)} and {_shown(again)} for {_of(ranks)}."
                )

    def test_leaves_the_ranks_alone(self) -> None:
        """The same array may go to another converter, or to a loss."""
        converter = self.make()
        for ranks in _examples():
            given = ranks.copy()
            self.rewards(converter, given)
            assert np.array_equal(given, ranks, equal_nan=True), (
                f"{self.subject} must not change its input, got {_shown(given)} after the call for {_of(ranks)}."
            )

    def test_keeps_the_order(self) -> None:
        """What one annotator, or several who agree, put before another gets more."""
        converter = self.make()
        for places in _orders():
            for num_annotators in (1, 3):
                ranks = np.tile(places, (num_annotators, 1))
                rewards = self.rewards(converter, ranks)
                for better, worse in _pairs(places):
                    assert rewards[better] > rewards[worse], (
                        f"{self.subject} must give a better place a higher reward, got {_shown(rewards)} for "
                        f"{_of(ranks)}."
                    )

    def test_does_not_depend_on_the_order_of_the_candidates(self) -> None:
        """Shuffled candidates keep their rewards."""
        converter = self.make()
        for ranks in _examples():
            order = np.random.default_rng(1).permutation(ranks.shape[1])
            expected, got = self.rewards(converter, ranks)[order], self.rewards(converter, ranks[:, order])
            assert _close(got, expected), (
                f"{self.subject} must give a candidate its reward wherever it stands, got {_shown(got)} instead of "
                f"{_shown(expected)} for {_of(ranks[:, order])}."
            )

    def test_gives_ties_the_same_reward(self) -> None:
        """Candidates that every annotator puts at one place."""
        converter = self.make()
        for ranks in (*_examples(), *(np.tile(places, (2, 1)) for places in _orders())):
            rewards = self.rewards(converter, ranks)
            for first in range(ranks.shape[1]):
                for second in range(first):
                    tied = np.array_equal(ranks[:, first], ranks[:, second], equal_nan=True)
                    assert not tied or _close(rewards[[first]], rewards[[second]]), (
                        f"{self.subject} must give tied candidates one reward, got {_shown(rewards)} for {_of(ranks)}."
                    )

    def test_leaves_out_what_nobody_ranked(self) -> None:
        """A candidate without a place gets nan and keeps no other from its order."""
        converter = self.make()
        for ranks in ([[_NAN, 1, 0, _NAN]], [[0, _NAN, 1], [0, _NAN, 1]], [[1, 0, _NAN], [_NAN] * 3], [[_NAN, _NAN]]):
            array = np.array(ranks)
            rewards = self.rewards(converter, array)
            for better, worse in _pairs(array[0]):
                assert rewards[better] > rewards[worse], (
                    f"{self.subject} must keep the order beside unranked candidates, got {_shown(rewards)} for "
                    f"{_of(array)}."
                )

    def test_takes_one_candidate_and_two(self) -> None:
        """Tied, ordered and unranked."""
        converter = self.make()
        for ranks in ([[0.0]], [[0.0], [0.0]], [[_NAN]], [[0.0, 0.0]], [[_NAN, 0.0]]):
            self.rewards(converter, np.array(ranks))
        for ranks in ([[0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]], [[0.0, 7.0]]):
            rewards = self.rewards(converter, np.array(ranks))
            assert rewards[0] > rewards[1], (
                f"{self.subject} must put the better of two first, got {_shown(rewards)} for {_of(np.array(ranks))}."
            )

    def test_agreement_never_reduces_a_gap(self) -> None:
        """One more annotator who says the same must not bring two candidates nearer."""
        converter = self.make()
        for places in _orders():
            before = self.rewards(converter, places[None])
            for num_annotators in (2, 3, 5, 9):
                rewards = self.rewards(converter, np.tile(places, (num_annotators, 1)))
                for better, worse in _pairs(places):
                    was, now = before[better] - before[worse], rewards[better] - rewards[worse]
                    assert now >= was - _TOLERANCE, (
                        f"{self.subject} must not reduce a gap when one more annotator agrees, got {now:.6g} after "
                        f"{was:.6g} with {num_annotators} annotators for {_of(places[None])}."
                    )
                before = rewards

    def rewards(self, converter: RankingConverter, ranks: Array) -> Array:
        """What the converter returns for these ranks, found to be of the right form."""
        try:
            rewards = np.asarray(converter(ranks), dtype=np.float64)
        except Exception as error:
            raise AssertionError(
                f"{self.subject} must take any ranks, got {described(error)} for {_of(ranks)}."
            ) from error
        num_candidates = ranks.shape[1]
        assert rewards.shape == (num_candidates,), (
            f"{self.subject} must return the shape ({num_candidates},), got {rewards.shape} for {_of(ranks)}."
        )
        ranked = ~np.isnan(ranks).all(axis=0)
        assert np.isfinite(rewards[ranked]).all(), (
            f"{self.subject} must give every ranked candidate a finite reward, got {_shown(rewards)} for {_of(ranks)}."
        )
        assert np.isnan(rewards[~ranked]).all(), (
            f"{self.subject} must give nan where nobody ranked, got {_shown(rewards)} for {_of(ranks)}."
        )
        return rewards


def _orders() -> tuple[Array, ...]:
    """One annotator's places: with and without ties and gaps, in and out of order, many of them."""
    lists = ([0, 1], [1, 0], [0, 1, 2], [2, 0, 1], [0, 0, 1], [3, 1, 1, 0], [0, 5, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8])
    return tuple(np.array(places, dtype=np.float64) for places in lists)


def _examples() -> Iterator[Array]:
    """Ranks of several annotators, who need not agree, nor rank everything."""
    yield np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    yield np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    yield np.array([[0.0, 1.0, _NAN], [_NAN, 0.0, 1.0]])
    yield np.array([[0.0, 1.0, _NAN, _NAN], [_NAN, _NAN, 1.0, 0.0]])  # nothing links the two halves
    random = np.random.default_rng(0)
    for num_annotators, num_candidates in ((1, 4), (2, 3), (3, 5), (7, 9)):
        ranks = random.integers(0, num_candidates, (num_annotators, num_candidates)).astype(np.float64)
        yield ranks
        yield np.where(random.random(ranks.shape) < 0.3, _NAN, ranks)


def _pairs(places: Array) -> Iterator[tuple[int, int]]:
    """Better and worse, for every two places that differ."""
    for better in range(len(places)):
        for worse in range(len(places)):
            if places[better] < places[worse]:
                yield better, worse


def _close(first: Array, second: Array) -> bool:
    return np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _shown(numbers: Array) -> str:
    return str(np.round(numbers, 6).tolist())


def _of(ranks: Array) -> str:
    return f"the ranks {ranks.tolist()}"
