"""Running normalisation of scores."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.arguments import require_positive

__all__ = ["ScoreNormalizer", "global_moments"]


class ScoreNormalizer:
    """Brings scores to mean 0 and deviation 1 by the moments of all rollouts so far, over all ranks.

        score <- (score - mean) / (deviation + epsilon)

    Args:
        center: subtract the mean; off, scores keep their sign.
        clip: bound of the normalised score's absolute value; null leaves it unbounded.
        epsilon: keeps the division finite where all scores are equal.
    """

    def __init__(self, center: bool = True, clip: float | None = None, epsilon: float = 1e-8) -> None:
        require_positive(of="the score normaliser", epsilon=epsilon, **({} if clip is None else {"clip": clip}))
        self.center = center
        self.clip = clip
        self.epsilon = epsilon
        self._count = 0.0
        self._mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean

    @property
    def mean(self) -> float:
        """Mean of all scores so far."""
        return self._mean

    @property
    def deviation(self) -> float:
        """Biased standard deviation of all scores so far; 1 before the first."""
        return (self._squares / self._count) ** 0.5 if self._count else 1.0

    def update(self, scores: Tensor, keep: Tensor, reduce: Callable[[Tensor], Tensor]) -> None:
        """Takes in the scores of one rollout.

        Args:
            scores: of this rank's responses.
            keep: False for responses that no loss reads.
            reduce: sum of a tensor over all ranks.
        """
        count, mean, variance = global_moments(scores, keep, reduce)
        if count == 0:
            return
        # Chan, Golub and LeVeque 1983, equation 2.1: stable, whatever the size of the mean
        total = self._count + count
        delta = mean - self._mean
        self._squares += variance * count + delta**2 * self._count * count / total
        self._mean += delta * count / total
        self._count = total

    def normalize(self, scores: Tensor) -> Tensor:
        """The scores by the moments so far; an update with these scores comes first."""
        normalized = (scores - self._mean * self.center) / (self.deviation + self.epsilon)
        return normalized if self.clip is None else normalized.clamp(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from saved moments."""
        self._count, self._mean, self._squares = state["count"], state["mean"], state["squares"]


def global_moments(x: Tensor, mask: Tensor, reduce: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """Count, mean and biased variance of the kept entries over all ranks, in two passes and float64.

    Args:
        x: any shape.
        mask: like it, True = keep.
        reduce: sum of a tensor over all ranks.

    Returns:
        Zeros when nothing is kept.

    >>> global_moments(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]), lambda total: total)
    (2.0, 2.0, 1.0)
    """
    kept = x[mask].double()
    totals = reduce(torch.stack([torch.tensor(float(kept.numel()), dtype=torch.float64), kept.sum()])).tolist()
    count, mean = totals[0], totals[1] / max(totals[0], 1.0)
    squares = float(reduce((kept - mean).square().sum()))
    return count, mean, squares / max(count, 1.0)
