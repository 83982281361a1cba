import random

import numpy as np
import pytest

from lightning_rlhf.builtins.converters import LinearConverter
from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.testing import RankingConverterContract


class TestLinear(RankingConverterContract):
    component = "linear"


class TestBorda(RankingConverterContract):
    component = "borda"


class TestZScore(RankingConverterContract):
    component = "zscore"


class TestBradleyTerry(RankingConverterContract):
    component = "bradley_terry"


class TestBradleyTerryWithHardlyAnyRegularization(RankingConverterContract):
    component = "bradley_terry"
    init_args = {"regularization": 0.001}


class Changed(RankingConverter):
    """The built-in linear rewards; derived classes spoil them."""

    def __call__(self, ranks):
        return self.spoil(LinearConverter()(ranks), ranks)

    def spoil(self, rewards, ranks):
        return rewards


class ARowOfRewards(Changed):
    def spoil(self, rewards, ranks):
        return rewards[None]


class ZeroForTheUnranked(Changed):
    def spoil(self, rewards, ranks):
        return np.nan_to_num(rewards)


class NoRewardInATie(Changed):
    def spoil(self, rewards, ranks):
        return np.where(len(np.unique(rewards)) == 1, np.nan, rewards)


class Infinite(Changed):
    def spoil(self, rewards, ranks):
        return np.where(rewards == 1, np.inf, rewards)


class Noisy(Changed):
    def spoil(self, rewards, ranks):
        return rewards + random.random()


class NoisyByInstance(Changed):
    def __init__(self):
        self.noise = random.random()

    def spoil(self, rewards, ranks):
        return rewards + self.noise


class WritesIntoItsInput(Changed):
    def spoil(self, rewards, ranks):
        ranks += 1
        return rewards


class TurnedRound(Changed):
    def spoil(self, rewards, ranks):
        return -rewards


class BestOrNot(Changed):
    def spoil(self, rewards, ranks):
        return np.where(np.isnan(rewards), np.nan, (rewards == np.nanmax(rewards, initial=-2)).astype(float))


class ByPlaceInTheList(Changed):
    def spoil(self, rewards, ranks):
        return rewards + 1e-2 * np.arange(len(rewards))


class TiesByPlaceInTheList(Changed):
    def __call__(self, ranks):
        broken = ranks + 1e-3 * np.arange(ranks.shape[1])
        return LinearConverter()(broken)


class DividesByNan(Changed):
    """Looks for the last place without thinking of nan, and hides what comes of it."""

    def spoil(self, rewards, ranks):
        return np.where(np.isnan(rewards), np.nan, np.nan_to_num(rewards / max(np.max(ranks), 1.0)))


class RefusesTheUnranked(Changed):
    def spoil(self, rewards, ranks):
        if np.isnan(rewards).any():
            raise ValueError("nan")
        return rewards


class DividesByTheOthers(Changed):
    def spoil(self, rewards, ranks):
        return rewards * (1 // (len(rewards) - 1) + 1)


class OneForAPair(Changed):
    def spoil(self, rewards, ranks):
        return np.where(np.isnan(rewards), np.nan, 1.0) if len(rewards) == 2 else rewards


class SharedAmongTheAnnotators(Changed):
    def spoil(self, rewards, ranks):
        return rewards / len(ranks)


DEFECTS = [
    ("test_gives_one_finite_reward_per_ranked_candidate", ARowOfRewards, "must return the shape (3,), got (1, 3)"),
    ("test_gives_one_finite_reward_per_ranked_candidate", ZeroForTheUnranked, "must give nan where nobody ranked"),
    ("test_gives_one_finite_reward_per_ranked_candidate", NoRewardInATie, "every ranked candidate a finite reward"),
    ("test_gives_one_finite_reward_per_ranked_candidate", Infinite, "every ranked candidate a finite reward"),
    ("test_gives_the_same_rewards_again", Noisy, "must be deterministic"),
    ("test_gives_the_same_rewards_again", NoisyByInstance, "must be deterministic"),
    ("test_leaves_the_ranks_alone", WritesIntoItsInput, "must not change its input, got [[1.0, 2.0, 3.0]"),
    ("test_keeps_the_order", TurnedRound, "a better place a higher reward, got [-1.0, 1.0]"),
    ("test_keeps_the_order", BestOrNot, "a better place a higher reward, got [1.0, 0.0, 0.0]"),
    ("test_does_not_depend_on_the_order_of_the_candidates", ByPlaceInTheList, "its reward wherever it stands"),
    ("test_gives_ties_the_same_reward", TiesByPlaceInTheList, "must give tied candidates one reward"),
    ("test_leaves_out_what_nobody_ranked", DividesByNan, "must keep the order beside unranked candidates"),
    ("test_leaves_out_what_nobody_ranked", RefusesTheUnranked, "must take any ranks, got ValueError: nan"),
    ("test_takes_one_candidate_and_two", DividesByTheOthers, "got ZeroDivisionError"),
    ("test_takes_one_candidate_and_two", OneForAPair, "must put the better of two first, got [1.0, 1.0]"),
    ("test_agreement_never_reduces_a_gap", SharedAmongTheAnnotators, "got 1 after 2 with 2 annotators"),
]


@pytest.mark.parametrize(("check", "component", "message"), DEFECTS)
def test_a_broken_converter_is_found(faults, check, component, message):
    found = faults(RankingConverterContract, component)
    assert message in found[check]
    assert f"ranking converter {component.__name__}" in found[check]


def test_every_check_has_a_converter_that_it_finds():
    assert {check for check, _, _ in DEFECTS} == set(RankingConverterContract.checks())


@pytest.mark.parametrize("component", [SharedAmongTheAnnotators, WritesIntoItsInput, TiesByPlaceInTheList])
def test_the_form_of_such_rewards_is_right(faults, component):
    found = faults(RankingConverterContract, component)
    assert "test_gives_one_finite_reward_per_ranked_candidate" not in found
