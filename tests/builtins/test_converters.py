import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.builtins.converters import (
    BordaConverter,
    BradleyTerryConverter,
    LinearConverter,
    ZScoreConverter,
)
from lightning_rlhf.errors import ConfigError

NAN = np.nan
CONVERTERS = [LinearConverter(), BordaConverter(), ZScoreConverter(), BradleyTerryConverter()]
all_converters = pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: type(converter).__name__)


@st.composite
def rank_tables(draw, max_annotators=4, unranked=True):
    num_candidates = draw(st.integers(1, 6))
    places = st.integers(0, 4).map(float)
    rank = st.one_of(places, st.just(NAN)) if unranked else places
    row = st.lists(rank, min_size=num_candidates, max_size=num_candidates)
    return np.array(draw(st.lists(row, min_size=1, max_size=max_annotators)))


@pytest.mark.parametrize(
    ("ranks", "rewards"),
    [
        ([[0, 1, 2]], [1, 0, -1]),
        ([[5, 1]], [-1, 1]),
        ([[0, 0, 3, 1]], [1, 1, -1, 0]),
        ([[2, 2]], [0, 0]),
        ([[0, NAN, 1], [1, NAN, 0], [0, NAN, 2]], [1 / 3, NAN, -1 / 3]),
        ([[0, 1, NAN], [NAN, 0, 1]], [1, 0, -1]),
        ([[NAN, 4.0]], [NAN, 0]),
    ],
)
def test_linear_rewards_are_those_of_its_formula(ranks, rewards):
    np.testing.assert_allclose(LinearConverter()(np.array(ranks, dtype=float)), rewards, atol=1e-9)


@pytest.mark.parametrize(
    ("ranks", "rewards"),
    [
        ([[0, 1, 2]], [1, 0, -1]),
        ([[0, 1, 1]], [1, -0.5, -0.5]),
        ([[0, 0, 1, 2]], [2 / 3, 2 / 3, -1 / 3, -1]),
        ([[0, 1], [1, 0]], [0, 0]),
        ([[3, NAN]], [0, NAN]),
    ],
)
def test_borda_rewards_are_shares_of_wins_less_losses(ranks, rewards):
    np.testing.assert_allclose(BordaConverter()(np.array(ranks, dtype=float)), rewards, atol=1e-9)


def test_zscore_rewards_are_standardised_per_annotator():
    root = np.sqrt(1.5)
    np.testing.assert_allclose(ZScoreConverter()(np.array([[0.0, 7.0, 2.0]])), [root, -root, 0], atol=1e-9)
    np.testing.assert_allclose(ZScoreConverter()(np.array([[0.0, 1.0], [4.0, 4.0]])), [0.5, -0.5], atol=1e-9)


def slow_bradley_terry(ranks, regularization):
    """Gradient ascent in plain loops."""
    num_candidates = ranks.shape[1]
    rewards = [0.0] * num_candidates
    for _ in range(20_000):
        gradient = [-regularization * reward for reward in rewards]
        for row in ranks:
            for i in range(num_candidates):
                for j in range(num_candidates):
                    if i == j or np.isnan(row[i]) or np.isnan(row[j]):
                        continue
                    outcome = 1.0 if row[i] < row[j] else 0.5 if row[i] == row[j] else 0.0
                    gradient[i] += outcome - 1 / (1 + np.exp(rewards[j] - rewards[i]))
        if max(map(abs, gradient)) < 1e-10:
            break
        rewards = [reward + 0.2 * slope for reward, slope in zip(rewards, gradient, strict=True)]
    return rewards


@pytest.mark.parametrize(
    "ranks",
    [[[0.0, 1.0]], [[0, 1, 2], [1, 0, 2], [0, 0, 1]], [[0, 1, NAN], [NAN, 0, 1]], [[0, 1, 2, 3], [3, 2, 1, 0.0]]],
)
def test_bradley_terry_rewards_are_the_maximum_of_the_likelihood(ranks):
    ranks = np.array(ranks, dtype=float)
    rewards = BradleyTerryConverter(0.3)(ranks)
    np.testing.assert_allclose(rewards, slow_bradley_terry(ranks, 0.3), atol=1e-7)


def test_bradley_terry_of_one_pair_solves_its_equation():
    best, worst = BradleyTerryConverter(0.1)(np.array([[0.0, 1.0]]))
    assert best == -worst
    assert 0.1 * best == pytest.approx(1 / (1 + np.exp(2 * best)))


def test_more_agreeing_annotators_set_bradley_terry_rewards_further_apart():
    one, three = (BradleyTerryConverter()(np.array([[0.0, 1.0]] * count)) for count in (1, 3))
    assert three[0] > one[0] > 0


def test_bradley_terry_converges_for_many_annotators_and_weak_regularization():
    rewards = BradleyTerryConverter(1e-6)(np.array([np.arange(9.0)] * 50))
    assert np.isfinite(rewards).all()
    assert (np.diff(rewards) < 0).all()


@pytest.mark.parametrize("regularization", [0.0, -1.0, np.inf, NAN])
def test_bradley_terry_needs_regularization(regularization):
    with pytest.raises(ConfigError, match=r"regularization must be (positive|a finite number)"):
        BradleyTerryConverter(regularization)


@all_converters
@settings(deadline=None)
@given(rank_tables(), st.randoms(use_true_random=False))
def test_rewards_follow_their_candidates(converter, ranks, random):
    order = list(range(ranks.shape[1]))
    random.shuffle(order)
    # rewards are rounded to ten digits: what lies half-way between two of them may go either way
    np.testing.assert_allclose(converter(ranks)[order], converter(ranks[:, order]), rtol=0, atol=1.5e-10)


@all_converters
@settings(deadline=None)
@given(rank_tables(), st.randoms(use_true_random=False))
def test_the_order_of_annotators_does_not_matter(converter, ranks, random):
    order = list(range(ranks.shape[0]))
    random.shuffle(order)
    np.testing.assert_array_equal(converter(ranks), converter(ranks[order]))


@all_converters
@settings(deadline=None)
@given(rank_tables())
def test_rewards_are_finite_exactly_where_somebody_ranked(converter, ranks):
    before = ranks.copy()
    rewards = converter(ranks)
    assert rewards.shape == (ranks.shape[1],)
    assert rewards.dtype == np.float64
    np.testing.assert_array_equal(np.isfinite(rewards), ~np.isnan(ranks).all(axis=0))
    np.testing.assert_array_equal(ranks, before)


@all_converters
@settings(deadline=None)
@given(rank_tables(max_annotators=1))
def test_one_annotators_order_and_ties_are_kept(converter, ranks):
    ranked = ~np.isnan(ranks[0])
    places, rewards = ranks[0][ranked], converter(ranks)[ranked]
    np.testing.assert_array_equal(np.sign(places[:, None] - places), -np.sign(rewards[:, None] - rewards))


@all_converters
@settings(deadline=None)
@given(rank_tables(unranked=False))
def test_what_all_annotators_agree_on_is_kept(converter, ranks):
    rewards = converter(ranks)
    better = (ranks[:, :, None] < ranks[:, None, :]).all(axis=0)
    tied = (ranks[:, :, None] == ranks[:, None, :]).all(axis=0)
    assert (rewards[:, None] > rewards)[better].all()
    assert (rewards[:, None] == rewards)[tied].all()


@all_converters
def test_a_single_candidate_gets_nothing(converter):
    np.testing.assert_array_equal(converter(np.array([[3.0], [0.0]])), [0.0])


@all_converters
def test_a_table_without_annotators_is_refused(converter):
    with pytest.raises(ValueError, match="must have the shape"):
        converter(np.empty((0, 2)))
