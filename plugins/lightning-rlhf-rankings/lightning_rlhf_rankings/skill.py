"""OpenSkill ratings from whole rankings."""

import math
from typing import Any

import numpy as np
from openskill.models import PlackettLuce

from lightning_rlhf.errors import ConfigError
from lightning_rlhf_rankings.aggregation import AggregatingConverter, Array
from lightning_rlhf_rankings.flow import flowed

__all__ = ["OpenSkillConverter"]


class OpenSkillConverter(AggregatingConverter):
    r"""OpenSkill ratings (Weng and Lin, 2011, algorithm 4) after every annotator's ranking, candidates equal at first.

    Each candidate has a skill `mu` and an uncertainty `sigma`, which every ranking moves together. The rankings are not
    rated one after the other but all at once, in infinitely small parts, so that no order of annotators or candidates
    exists. The reward is the skill in log-odds, `mu / c` with the library's own spread c; the standard error is
    `sigma / c`, what OpenSkill believes, which is mostly more than what a maximum-likelihood estimate is off by.

    Args:
        prior_deviation: the uncertainty beforehand, 1 being the spread of performances in a ranking; less pulls the
            rewards together. 1.4 is the library's own ratio.
    """

    def __init__(self, prior_deviation: float = 1.4) -> None:
        if not 0 < prior_deviation < math.inf:
            raise ConfigError(f"prior_deviation must be above 0, got {prior_deviation}.")
        self.prior_deviation = prior_deviation

    def _fit(self, ranks: Array) -> tuple[Array, Array]:
        num_candidates = ranks.shape[1]
        # Equal rankings, of which there are many where candidates are few, are rated once.
        rows, counts = np.unique(np.nan_to_num(ranks, nan=-1), axis=0, return_counts=True)
        games = [_Game(np.where(row < 0, np.nan, row)) for row in rows]

        def update(ratings: Array) -> Array:
            change = np.zeros_like(ratings)
            skills, log_deviations = ratings[:num_candidates], ratings[num_candidates:]
            for game, count in zip(games, counts, strict=True):
                skill_change, log_change = game.update(skills[game.players], np.exp(log_deviations[game.players]))
                change[game.players] += count * skill_change
                change[num_candidates + game.players] += count * log_change
            return change

        start = np.concatenate([np.zeros(num_candidates), np.full(num_candidates, math.log(self.prior_deviation))])
        ratings = flowed(start, update)
        skills, deviations = ratings[:num_candidates], np.exp(ratings[num_candidates:])
        # The library's own prediction is softmax(mu / spread): over the spread, skills are log-odds.
        spread = (
            math.sqrt(np.average([game.spread_squared(deviations) for game in games], weights=counts)) if games else 1.0
        )
        return skills / spread, deviations / spread


class _Game:
    """One annotator's ranking, as a game that openskill rates."""

    def __init__(self, ranks: Array) -> None:
        self.players = np.flatnonzero(~np.isnan(ranks))
        self._places = [float(rank) for rank in ranks[self.players]]
        # The betas of all players add up to 1, so that the scale is the same whatever the number of candidates. Nothing
        # moves with time (tau), and a ranking counts whole (gamma).
        beta = len(self.players) ** -0.5
        self._model = PlackettLuce(mu=0.0, sigma=1.0, beta=beta, tau=0.0, gamma=_whole)

    def spread_squared(self, deviations: Array) -> float:
        """What the library divides differences of skill by, squared: beta^2 + sigma^2, summed over the players."""
        return 1.0 + float(np.sum(deviations[self.players] ** 2))

    def update(self, skills: Array, deviations: Array) -> tuple[Array, Array]:
        """What rating this game changes in the skills and in the logarithms of their deviations."""
        teams = [
            [self._model.rating(mu=float(skill), sigma=float(deviation))]
            for skill, deviation in zip(skills, deviations, strict=True)
        ]
        rated = [team[0] for team in self._model.rate(teams, ranks=self._places)]
        shrinking = (np.array([rating.sigma for rating in rated]) / deviations) ** 2
        # The update multiplies the variance by 1 - delta; a part 1/n of it by 1 - delta / n.
        return np.array([rating.mu for rating in rated]) - skills, (shrinking - 1) / 2


def _whole(*_: Any) -> float:
    return 1.0
