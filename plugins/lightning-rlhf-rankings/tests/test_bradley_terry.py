import numpy as np
import pytest
from lightning_rlhf_rankings.bradley_terry import BradleyTerryMLConverter, score_covariance

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.registry import create

NAN = np.nan


@pytest.mark.parametrize(
    "ranks",
    [
        [[0, 1]],
        [[0, 1, 2, 3]],
        [[0, 0, 1], [1, 0, 0]],
        [[0, NAN, 1], [NAN, 0, 1], [2, 1, 0]],
        [[0, 1, NAN, NAN], [NAN, NAN, 0, 1]],
    ],
)
@pytest.mark.parametrize("regularization", [0.01, 0.1, 3.0])
def test_rewards_are_those_of_the_built_in_converter(ranks, regularization):
    ranks = np.array(ranks, dtype=float)
    built_in = create("ranking_converter", "bradley_terry", regularization=regularization)
    np.testing.assert_allclose(BradleyTerryMLConverter(regularization)(ranks), built_in(ranks), atol=2e-8)


def test_one_comparison_has_the_error_of_its_formula():
    # Gap d solves 1 - sigmoid(d) = 0.05 d; the posterior of the gap has the precision p (1 - p) + 0.1 / 2.
    rewards, errors = BradleyTerryMLConverter(0.1).estimate(np.array([[0.0, 1.0]]))
    gap = rewards[0] - rewards[1]
    probability = 1 / (1 + np.exp(-gap))
    assert 1 - probability == pytest.approx(0.05 * gap, abs=1e-7)
    np.testing.assert_allclose(errors, 0.5 / np.sqrt(probability * (1 - probability) + 0.05), rtol=1e-6)


def test_the_covariance_of_wins_is_that_of_drawn_rankings():
    utilities = np.array([1.0, 0.3, -0.2, -1.1, 0.0])
    performances = utilities + np.random.default_rng(0).gumbel(size=(100_000, 5))
    wins = np.sum(performances[:, :, None] > performances[:, None, :], axis=2)
    np.testing.assert_allclose(score_covariance(utilities), np.cov(wins.T), atol=0.02)


def test_the_covariance_of_one_comparison_is_binomial():
    probability = 1 / (1 + np.exp(-0.7))
    variance = probability * (1 - probability)
    np.testing.assert_allclose(score_covariance(np.array([0.7, 0.0])), variance * np.array([[1, -1], [-1, 1]]))


@pytest.mark.parametrize("regularization", [0.0, -1.0, np.inf, NAN])
def test_regularization_must_be_positive(regularization):
    with pytest.raises(ConfigError, match="regularization must be above 0"):
        BradleyTerryMLConverter(regularization)
