"""Scorers, and how their scores become one."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.rollout.event_loop import close_all, run_together
from lightning_rlhf.rollout.normalization import ScoreNormalizer
from lightning_rlhf.rollout.responses import Responses

__all__ = [
    "PendingScores",
    "ScorePipeline",
    "Scorer",
    "Scores",
    "combine",
    "converted_scores",
    "is_rated",
    "place_of",
    "total_scores",
    "with_total",
]


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Scores that are still to be awaited.

    Args:
        awaitables: what to await.
        timeout_s: seconds that each may take; None sets no limit.
        finish: makes scores of their outcomes, as `run_together` returns them.
    """

    awaitables: Sequence[Awaitable[Any]]
    timeout_s: float | None
    finish: Callable[[list[Any]], Tensor]


class Scorer(ABC):
    """Gives every response a score, or every response token one.

    Args:
        name: what its scores are logged under.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def score(self, responses: Responses) -> Tensor:
        """One score per response `(B,)`, or one per token `(B, R)`, 0 outside the completion mask; fp32, on the CPU.

        A response that the scorer does not apply to has nan in all its places.

        Raises:
            ScorerError: what came back cannot be used.
        """

    def begin(self, responses: Responses) -> "Tensor | PendingScores":
        """The scores, or what has to be awaited for them."""
        return self.score(responses)


@dataclass(frozen=True, slots=True)
class Scores:
    """What all scorers say of a batch of responses.

    Args:
        scores: weighted sum over the scorers, `(B,)`, or `(B, R)` where one of them scores tokens.
        by_scorer: each scorer's own scores of whole responses `(B,)`, under its name; nan where it does not apply.
    """

    scores: Tensor
    by_scorer: dict[str, Tensor]

    @property
    def totals(self) -> Tensor:
        """Weighted sum for whole responses."""
        return total_scores(self.scores)


class ScorePipeline:
    """All scorers of a run, and what is done to their weighted sum in a rollout.

    Args:
        scorers: reward models first, then reward functions. Names that occur twice get a number.
        weights: one per scorer; default 1 each.
        converter: turns the ranks of a prompt's K responses into the rewards that replace their scores.
        normalizer: running normalisation, after the conversion.

    Raises:
        ConfigError: no scorer, or weights that do not fit the scorers.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        *,
        weights: Sequence[float] | None = None,
        converter: RankingConverter | None = None,
        normalizer: ScoreNormalizer | None = None,
    ) -> None:
        if not scorers:
            raise ConfigError("there must be at least one scorer, got none. Set reward_model or rewards.")
        if weights is not None and len(weights) != len(scorers):
            names = ", ".join(scorer.name for scorer in scorers)
            raise ConfigError(
                f"reward_weights must have one weight per scorer, got {len(weights)} for {len(scorers)}: {names}. "
                "Reward models come first, then reward functions."
            )
        self.scorers = list(scorers)
        self.weights = [1.0] * len(scorers) if weights is None else [float(weight) for weight in weights]
        self.converter = converter
        self.normalizer = normalizer
        self.names = _distinct([scorer.name for scorer in scorers])

    def weighted(self, responses: Responses) -> Scores:
        """Each scorer's scores and their weighted sum: what validation reports.

        Raises:
            ScorerError: a scorer gave something unusable, or no scorer applies to a response.
        """
        scored = _scored(self.scorers, responses)
        self._require_rated(scored, responses)
        scores = combine(scored, self.weights, responses.completion_mask)
        totals = [total_scores(score) for score in scored]
        return Scores(scores, dict(zip(self.names, totals, strict=True)))

    def _require_rated(self, scored: Sequence[Tensor], responses: Responses) -> None:
        """A response that nobody rates would be worth 0, which may be far above or below all others."""
        rated = torch.stack([is_rated(score) for score in scored]).any(0)
        if not bool(rated.all()):
            row = int(rated.logical_not().nonzero()[0])
            raise ScorerError(
                f"every response must be rated by at least one scorer, got None from {', '.join(self.names)}. Add a "
                f"scorer that applies to all rows, or leave such rows out. {place_of(responses, row)}"
            )


def _scored(scorers: Sequence[Scorer], responses: Responses) -> list[Tensor]:
    """What each scorer gives; what has to be awaited is awaited side by side."""
    begun: list[Tensor | PendingScores] = []
    try:
        for scorer in scorers:
            begun.append(scorer.begin(responses))
    except BaseException:
        close_all([each for one in begun if isinstance(one, PendingScores) for each in one.awaitables])
        raise
    pending = [one for one in begun if isinstance(one, PendingScores)]
    limits = [one.timeout_s for one in pending]
    timeout_s = None if None in limits else max((limit for limit in limits if limit is not None), default=None)
    outcomes = iter(run_together([each for one in pending for each in one.awaitables], timeout_s))
    return [
        one.finish([next(outcomes) for _ in one.awaitables]) if isinstance(one, PendingScores) else one for one in begun
    ]


def is_rated(scores: Tensor) -> Tensor:
    """Whether a scorer applied to each response, `(B,)` bool.

    Args:
        scores: `(B,)` or `(B, R)`, nan in all places of a response that it did not apply to.
    """
    return ~scores.isnan() if scores.ndim == 1 else ~scores.isnan().any(-1)


def place_of(responses: Responses, row: int) -> str:
    """Prompt and response of a row, for an error message."""
    return f"prompt: {_shortened(responses.prompts[row])}, response: {_shortened(responses.responses[row])}"


def _shortened(text: str, length: int = 200) -> str:
    return repr(text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}")


def combine(scores: Sequence[Tensor], weights: Sequence[float], completion_mask: Tensor) -> Tensor:
    """Weighted sum of scores; where one of them scores tokens, the others stand at the last token of their response.

    Args:
        scores: `(B,)` or `(B, R)` each; nan, where a scorer does not apply, adds nothing.
        weights: one per scorer.
        completion_mask: True up to and including the stop token.
    """
    scores = [score.masked_fill(~is_rated(score).view(-1, *[1] * (score.ndim - 1)), 0.0) for score in scores]
    if any(score.ndim == 2 for score in scores):
        scores = [score if score.ndim == 2 else at_last_token(score, completion_mask) for score in scores]
    return torch.stack([weight * score for weight, score in zip(weights, scores, strict=True)]).sum(0)


def total_scores(scores: Tensor) -> Tensor:
    """The score of whole responses: the sum over tokens where tokens were scored."""
    return scores if scores.ndim == 1 else scores.sum(-1)


def at_last_token(scores: Tensor, completion_mask: Tensor) -> Tensor:
    """Each response's score at its last token, 0 elsewhere."""
    last = completion_mask.sum(-1, keepdim=True) - 1
    return scores.new_zeros(completion_mask.shape).scatter_(1, last, scores[:, None])


def with_total(
    scores: Tensor,
    totals: Tensor,
    completion_mask: Tensor,
) -> Tensor:
    """Scores with other totals; where tokens were scored, the last token takes the difference.

    Args:
        scores: `(B,)` or `(B, R)`.
        totals: `(B,)`.
        completion_mask: `(B, R)`.
    """
    if scores.ndim == 1:
        return totals
    return scores + at_last_token(totals - scores.sum(-1), completion_mask)


def converted_scores(scores: Tensor, converter: RankingConverter, num_responses: int) -> Tensor:
    """The rewards of the converter in place of the scores, one prompt after the other.

    Each prompt's responses are ranked by their scores, as by one annotator.

    Args:
        scores: of all responses, the K of a prompt next to each other.
        converter: turns ranks into rewards.
        num_responses: K, responses per prompt.

    Raises:
        ScorerError: the converter returned something else than K finite numbers.
    """
    rewards = torch.empty_like(scores)
    for start in range(0, len(scores), num_responses):
        group = scores[start : start + num_responses]
        ranks = np.unique(-group.double().numpy(), return_inverse=True)[1].reshape(1, -1).astype(np.float64)
        converted = np.asarray(converter(ranks), dtype=np.float64)
        if converted.shape != (len(group),) or not np.isfinite(converted).all():
            raise ScorerError(
                f"ranking converter {type(converter).__name__} must return {len(group)} finite rewards, "
                f"got {converted.tolist()} for the ranks {ranks[0].tolist()}."
            )
        rewards[start : start + num_responses] = torch.from_numpy(converted).to(rewards.dtype)
    return rewards


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct
