import math

import numpy as np
import pytest
from lightning_rlhf_rankings.elo import EloConverter

from lightning_rlhf.errors import ConfigError

POINTS = 400 / math.log(10)


def sequential_elo(ranks, k_factor, num_parts):
    """Textbook Elo, one comparison after the other, each in many small parts."""
    ratings = np.zeros(ranks.shape[1])
    for _ in range(num_parts):
        for row in ranks:
            for i in range(len(row)):
                for j in range(i):
                    outcome = 0.5 if row[i] == row[j] else float(row[i] < row[j])
                    expected = 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400))
                    ratings[i] += k_factor / num_parts * (outcome - expected)
                    ratings[j] -= k_factor / num_parts * (outcome - expected)
    return ratings / POINTS


@pytest.mark.parametrize("ranks", [[[0, 1]], [[0, 1, 2], [1, 0, 2]], [[0, 0, 1], [2, 0, 1], [0, 1, 2]]])
def test_rewards_are_those_of_textbook_elo_in_small_parts(ranks):
    ranks = np.array(ranks, dtype=float)
    np.testing.assert_allclose(EloConverter(64)(ranks), sequential_elo(ranks, 64, 2000), atol=2e-4)


def test_a_small_factor_moves_as_one_game_of_elo_does():
    # Equals are expected to share: a win is worth half the factor.
    rewards = EloConverter(2.0)(np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(rewards * POINTS, [1, -1], rtol=1e-2)


@pytest.mark.parametrize("k_factor", [0.0, -1.0, math.inf, math.nan])
def test_the_factor_must_be_positive(k_factor):
    with pytest.raises(ConfigError, match="k_factor must be above 0"):
        EloConverter(k_factor)
