import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_rlhf_rankings.bradley_terry import BradleyTerryMLConverter
from lightning_rlhf_rankings.elo import EloConverter
from lightning_rlhf_rankings.plackett_luce import PlackettLuceMLConverter
from lightning_rlhf_rankings.skill import OpenSkillConverter

NAN = np.nan
CONVERTERS = [BradleyTerryMLConverter(), PlackettLuceMLConverter(), EloConverter(), OpenSkillConverter()]
all_converters = pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: type(converter).__name__)


@st.composite
def rank_tables(draw, max_annotators=3, unranked=True):
    num_candidates = draw(st.integers(1, 5))
    places = st.integers(0, 3).map(float)
    rank = st.one_of(places, st.just(NAN)) if unranked else places
    row = st.lists(rank, min_size=num_candidates, max_size=num_candidates)
    return np.array(draw(st.lists(row, min_size=1, max_size=max_annotators)))


def quick(max_examples=40):
    return settings(deadline=None, max_examples=max_examples, derandomize=True)


@all_converters
@quick()
@given(rank_tables(), st.randoms(use_true_random=False))
def test_neither_the_order_of_candidates_nor_of_annotators_matters(converter, ranks, random):
    candidates, annotators = list(range(ranks.shape[1])), list(range(ranks.shape[0]))
    random.shuffle(candidates)
    random.shuffle(annotators)
    shuffled = converter.estimate(ranks[np.ix_(annotators, candidates)])
    for got, expected in zip(shuffled, converter.estimate(ranks), strict=True):
        assert (got is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(got, expected[candidates], atol=2e-8)


@all_converters
@quick()
@given(rank_tables(unranked=False))
def test_what_all_annotators_agree_on_is_kept(converter, ranks):
    rewards = converter(ranks)
    better = (ranks[:, :, None] < ranks[:, None, :]).all(axis=0)
    tied = (ranks[:, :, None] == ranks[:, None, :]).all(axis=0)
    assert (rewards[:, None] > rewards)[better].all()
    assert (rewards[:, None] == rewards)[tied].all()


@all_converters
@quick()
@given(rank_tables())
def test_rewards_are_finite_exactly_where_somebody_ranked_and_sum_to_zero(converter, ranks):
    rewards, errors = converter.estimate(ranks)
    ranked = ~np.isnan(ranks).all(axis=0)
    np.testing.assert_array_equal(np.isfinite(rewards), ranked)
    assert abs(np.nansum(rewards)) < 1e-6
    if errors is not None:
        np.testing.assert_array_equal(np.isfinite(errors), ranked)
        assert (errors[ranked] >= 0).all()


@all_converters
def test_candidates_that_annotators_disagree_on_evenly_are_equal(converter):
    rewards = converter(np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    assert rewards[0] == rewards[2]
    np.testing.assert_allclose(converter(np.array([[0.0, 1.0], [1.0, 0.0]])), [0, 0])


@all_converters
def test_an_annotator_of_a_single_candidate_changes_nothing(converter):
    alone, joined = (converter.estimate(np.array([[0.0, 1.0, 2.0], *more])) for more in ([], [[NAN, 0.0, NAN]]))
    np.testing.assert_array_equal(joined.rewards, alone.rewards)


@all_converters
def test_many_agreeing_annotators_stay_finite(converter):
    rewards = converter(np.tile(np.arange(4.0), (60, 1)))
    assert np.isfinite(rewards).all()
    assert (np.diff(rewards) < 0).all()


@all_converters
def test_annotators_of_disjoint_candidates_leave_every_reward_finite(converter):
    rewards = converter(np.array([[0.0, 1.0, NAN, NAN], [NAN, NAN, 0.0, 1.0]]))
    assert rewards[0] == rewards[2] > rewards[1] == rewards[3]


@all_converters
def test_converters_survive_pickling(converter):
    ranks = np.array([[0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(converter))(ranks), converter(ranks))


@all_converters
@pytest.mark.parametrize("shape", [(0, 2), (1, 2, 2)])
def test_ranks_of_another_shape_are_refused(converter, shape):
    with pytest.raises(ValueError, match="must have the shape"):
        converter(np.zeros(shape))
