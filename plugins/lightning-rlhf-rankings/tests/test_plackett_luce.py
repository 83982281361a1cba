import numpy as np
import pytest
import torch
from lightning_rlhf_rankings.plackett_luce import PlackettLuceMLConverter
from scipy.optimize import minimize

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.functional import plackett_luce_loss
from lightning_rlhf.registry import create

NAN = np.nan
TABLES = [[[0, 1, 2]], [[0, 0, 1], [1, 0, 0]], [[0, NAN, 1], [NAN, 0, 1], [2, 1, 0]], [[0, 1, 1, 2], [3, 0, 1, NAN]]]


def slow_utilities(ranks, regularization):
    """The maximum of the loss that reward models are trained with, found by another optimizer, without derivatives."""

    def objective(utilities):
        scores = torch.tensor(np.tile(utilities, (len(ranks), 1)))
        mask = torch.tensor(~np.isnan(ranks))
        loss = plackett_luce_loss(scores, torch.tensor(np.nan_to_num(ranks)), mask, num_prompts=torch.tensor(1))
        return loss.item() + regularization / 2 * np.sum(utilities**2)

    return minimize(
        objective,
        np.zeros(ranks.shape[1]),
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 5000},
    ).x


@pytest.mark.parametrize("ranks", TABLES)
def test_rewards_minimise_the_plackett_luce_loss_of_reward_models(ranks):
    ranks = np.array(ranks, dtype=float)
    expected = slow_utilities(ranks, 0.3)
    np.testing.assert_allclose(PlackettLuceMLConverter(0.3)(ranks), expected, atol=1e-4)


def test_two_candidates_are_those_of_bradley_terry():
    ranks = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    other = create("ranking_converter", "bradley_terry_ml", regularization=0.2).estimate(ranks)
    got = PlackettLuceMLConverter(0.2).estimate(ranks)
    np.testing.assert_allclose(got.rewards, other.rewards, atol=2e-8)
    np.testing.assert_allclose(got.standard_errors, other.standard_errors, atol=2e-8)


def test_regularization_must_be_positive():
    with pytest.raises(ConfigError, match="regularization must be above 0"):
        PlackettLuceMLConverter(0.0)
