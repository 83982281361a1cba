import math

import numpy as np
import pytest
from lightning_rlhf_rankings.skill import OpenSkillConverter
from openskill.models import PlackettLuce

from lightning_rlhf.errors import ConfigError


def test_a_small_prior_moves_as_one_game_of_openskill_does():
    # With little uncertainty one ranking changes little, and a game in parts is the game.
    model = PlackettLuce(mu=0.0, sigma=0.05, beta=3**-0.5, tau=0.0, gamma=lambda *_: 1.0)
    rated = [team[0] for team in model.rate([[model.rating()] for _ in range(3)], ranks=[0.0, 1.0, 2.0])]
    rewards, errors = OpenSkillConverter(0.05).estimate(np.array([[0.0, 1.0, 2.0]]))
    skills = np.array([rating.mu for rating in rated])
    np.testing.assert_allclose(rewards, skills - skills.mean(), rtol=2e-2)
    np.testing.assert_allclose(errors, [rating.sigma for rating in rated], rtol=1e-2)


def test_without_a_comparison_the_error_is_the_prior():
    rewards, errors = OpenSkillConverter(2.0).estimate(np.array([[0.0, math.nan], [math.nan, 0.0]]))
    np.testing.assert_array_equal(rewards, [0, 0])
    np.testing.assert_allclose(errors, [2, 2])


@pytest.mark.parametrize("prior_deviation", [0.0, -1.0, math.inf, math.nan])
def test_the_prior_deviation_must_be_positive(prior_deviation):
    with pytest.raises(ConfigError, match="prior_deviation must be above 0"):
        OpenSkillConverter(prior_deviation)
