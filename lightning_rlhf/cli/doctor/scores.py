"""Do the scorers tell responses apart, and by more than their length?"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_rlhf.builtins.reward_functions import LengthReward
from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.data.collation import collate_rankings
from lightning_rlhf.functional import ranking_accuracy
from lightning_rlhf.modules import RewardModule
from lightning_rlhf.rollout import RewardFunctionScorer
from lightning_rlhf.rollout.scoring import is_rated

__all__ = ["LengthInRanks", "ScoreSpread", "StartingScores", "rank_correlation"]

_EXPLAINED = 0.9
"""A rank correlation with length from which on length alone is what is rewarded."""
_MANY_PAIRS = 0.75


class ScoreSpread(Check):
    """Every scorer, and their weighted sum, differ between responses, and not by length alone."""

    name = "score spread"
    stages = ("ppo",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One per scorer; one for their sum where there are several."""
        pipeline, scores = subject.ppo.score_pipeline(), subject.scores
        lengths = subject.sampled.responses.completion_mask.sum(-1)
        for name, scorer in zip(pipeline.names, pipeline.scorers, strict=True):
            meant = isinstance(scorer, RewardFunctionScorer) and isinstance(scorer.function, LengthReward)
            yield self._of(name, scores[name], lengths, is_sum=len(scores) == 1, may_be_length=meant)
        if len(scores) > 1:
            weighted = zip(pipeline.weights, pipeline.names, strict=True)
            total = torch.stack([weight * scores[name].nan_to_num(0.0) for weight, name in weighted]).sum(0)
            yield self._of("weighted sum", total, lengths, is_sum=True, may_be_length=False)

    def _of(self, name: str, scores: Tensor, lengths: Tensor, *, is_sum: bool, may_be_length: bool) -> CheckResult:
        rated = is_rated(scores)
        scores, lengths = scores[rated], lengths[rated]
        if not len(scores):
            return self.warned(
                f"{name}: it applies to none of {len(rated)} responses",
                "Check the field that tells it which rows it is for, or sample more with --responses.",
            )
        spread, correlation = float(scores.std(correction=0)), rank_correlation(scores.numpy(), lengths.numpy())
        facts = (
            f"{name}: mean {float(scores.mean()):.3g}, deviation {spread:.3g}, from {float(scores.min()):.3g} to "
            f"{float(scores.max()):.3g} over {len(scores)} responses"
        )
        if not bool(rated.all()):
            facts += f" that it applies to, of {len(rated)}"
        if _is_constant(scores):
            finding = f"{facts}: it gives every response the same score"
            fix = (
                "Try it by hand on responses that should differ: a pattern may never match, a column be missing. If it "
                "is meant to be rare, sample more with --responses."
            )
            return self.failed(finding, fix) if is_sum else self.warned(finding, fix)
        if correlation is None:
            return self.passed(f"{facts}; all responses are equally long")
        facts += f"; rank correlation with length {correlation:+.2f}"
        if abs(correlation) >= _EXPLAINED and not may_be_length:
            kind = "longer" if correlation > 0 else "shorter"
            return self.warned(
                f"{facts}: length alone explains it",
                f"The policy would learn to write {kind} responses and nothing else. Add the reward function `length` "
                "with a target against it, or train the reward model on pairs of equal length.",
            )
        return self.passed(facts)


class StartingScores(Check):
    """A reward model reads each candidate where it ends: before training, too, their scores differ and are finite."""

    name = "score spread"
    stages = ("reward",)
    num_rankings = 8

    @torch.no_grad()
    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        module, rows = subject.module, subject.sample.rows[: self.num_rankings]
        if not isinstance(module, RewardModule) or not rows:
            return
        batch = subject.run.placed(collate_rankings(rows))
        with subject.run.trainer.precision_plugin.forward_context():
            scores = module.model.scores(batch.tokens, batch.last_positions).float().cpu()
        facts = f"of {len(scores)} candidates before training: deviation {float(scores.std(correction=0)):.3g}"
        if not bool(scores.isfinite().all()):
            yield self.failed(f"{facts}, some are not finite", "Check the base: it computes nan or infinite states.")
        elif _is_constant(scores):
            yield self.failed(f"{facts}: all are equal", "Check that the candidates differ, and the base's weights.")
        else:
            yield self.passed(facts)


class LengthInRanks(Check):
    """Length alone does not say which response is the better one."""

    name = "length in the ranks"
    stages = ("reward",)

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        if not subject.sample.rows:
            return
        batch = collate_rankings(subject.sample.rows)
        longer = float(ranking_accuracy(batch.whole_lengths.float(), batch.ranks, batch.candidate_mask))
        facts = f"the longer response is the better one in {longer:.0%} of the pairs"
        if not 1 - _MANY_PAIRS < longer < _MANY_PAIRS:
            kind = "long" if longer > 0.5 else "short"
            yield self.warned(
                facts,
                f"The reward model may learn that {kind} is good. Compare val/accuracy_longer_preferred with "
                "val/accuracy_shorter_preferred after training, or balance the pairs.",
            )
        else:
            yield self.passed(facts)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one of the two does not vary.

    >>> rank_correlation([1.0, 2.0, 9.0], [10, 20, 30]), rank_correlation([1, 2], [3, 3])
    (1.0, None)
    """
    ranks = [_mean_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return round(float((centred[0] * centred[1]).sum()) / scale, 12) if scale else None


def _is_constant(scores: Tensor) -> bool:
    """But for rounding, which depends on the place in the batch."""
    return float(scores.max() - scores.min()) <= 1e-6 * max(1.0, float(scores.abs().max()))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = np.cumsum(counts) - (counts + 1) / 2
    return means[places]
