"""Annotators are simulated from known utilities, which must be found again within the stated errors."""

import numpy as np
import pytest
from lightning_rlhf_rankings.bradley_terry import BradleyTerryMLConverter
from lightning_rlhf_rankings.elo import EloConverter
from lightning_rlhf_rankings.plackett_luce import PlackettLuceMLConverter
from lightning_rlhf_rankings.skill import OpenSkillConverter

NUM_CANDIDATES = 4
LIKELIHOOD = [BradleyTerryMLConverter(), PlackettLuceMLConverter()]


def simulated_rankings(random, utilities, num_annotators, num_ranked=None):
    """Plackett-Luce rankings: the order of utilities plus Gumbel noise; each annotator ranks some of the candidates."""
    performances = utilities + random.gumbel(size=(num_annotators, len(utilities)))
    for row in performances:
        row[random.permutation(len(utilities))[num_ranked or len(utilities) :]] = np.nan
    ranks = np.sum(performances[:, None, :] > performances[:, :, None], axis=2).astype(float)
    return np.where(np.isnan(performances), np.nan, ranks)


def standardised_errors(converter, num_annotators, num_ranked, num_simulations):
    random = np.random.default_rng(1)
    errors = []
    for _ in range(num_simulations):
        utilities = random.normal(size=NUM_CANDIDATES)
        utilities -= utilities.mean()
        rewards, stated = converter.estimate(simulated_rankings(random, utilities, num_annotators, num_ranked))
        errors.append((rewards - utilities) / stated)
    return np.array(errors)


@pytest.mark.parametrize("converter", LIKELIHOOD, ids=lambda converter: type(converter).__name__)
@pytest.mark.parametrize(("num_annotators", "num_ranked"), [(15, 4), (25, 3)])
def test_planted_utilities_are_found_within_the_stated_errors_as_often_as_stated(converter, num_annotators, num_ranked):
    errors = standardised_errors(converter, num_annotators, num_ranked, num_simulations=30)
    assert 0.85 < np.sqrt(np.mean(errors**2)) < 1.15  # 90 independent errors: within two deviations of 1
    assert 0.90 < np.mean(np.abs(errors) < 1.96) < 0.99


def test_openskill_finds_planted_utilities_within_its_stated_errors():
    errors = standardised_errors(OpenSkillConverter(), 20, 4, num_simulations=10)
    # What OpenSkill states is its belief, which holds more than the error that is left.
    assert 0.4 < np.sqrt(np.mean(errors**2)) < 1
    assert np.mean(np.abs(errors) < 1.96) > 0.95


def test_elo_ratings_of_many_annotators_are_the_planted_utilities():
    random = np.random.default_rng(2)
    utilities = np.array([1.2, 0.4, -0.3, -1.3])
    ranks = simulated_rankings(random, utilities, 400)
    stated = BradleyTerryMLConverter().estimate(ranks[:50]).standard_errors / np.sqrt(8)
    assert (np.abs(EloConverter()(ranks) - utilities) < 3 * stated).all()


@pytest.mark.parametrize("converter", [*LIKELIHOOD, OpenSkillConverter()], ids=lambda made: type(made).__name__)
def test_more_annotators_state_smaller_errors(converter):
    random = np.random.default_rng(3)
    ranks = simulated_rankings(random, np.array([0.5, 0.0, -0.5]), 40)
    few, many = (converter.estimate(ranks[:count]).standard_errors for count in (5, 40))
    assert (many < 0.7 * few).all()
