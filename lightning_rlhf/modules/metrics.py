"""Torchmetrics whose state crosses batches and ranks. Sums are fp32 and counts int64.

Not every device has float64, and under true half precision the default dtype is half.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_rlhf.functional import ranking_accuracy

__all__ = ["MeanPerItem", "NamedMeans", "RankingAccuracy", "WindowLoss"]


class _ExactMetric(Metric):
    """A metric whose states keep their dtype when the module around it is cast: a sum in bfloat16 stops growing."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        defaults: dict[str, Any] = self._defaults
        before = {name: (getattr(self, name), default) for name, default in defaults.items()}
        super()._apply(fn, exclude_state)
        for name, (value, default) in before.items():
            device = getattr(self, name).device
            setattr(self, name, value.to(device))
            defaults[name] = default.to(device)
        return self


class WindowLoss(_ExactMetric):
    """Sum of `sum / N` over an accumulation window and all ranks: the loss that the optimizer step minimised."""

    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, loss: Tensor) -> None:
        """Adds one micro-batch's share of the window's loss."""
        self.total += loss.detach().float()

    def compute(self) -> Tensor:
        """The window's loss."""
        return self.total


class MeanPerItem(_ExactMetric):
    """Mean of something over items (tokens, pairs, responses) however they are cut into batches."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.is_empty = True
        """Whether no rank had counted anything when the mean was last computed."""

    def update(self, total: Tensor, count: Tensor | int) -> None:
        """Adds the sum over `count` items."""
        self.total += total.detach().float()
        self.count += count

    def compute(self) -> Tensor:
        """The mean; nan when nothing was counted."""
        self.is_empty = not bool(self.count)
        return self.total / self.count


class NamedMeans(nn.Module):
    """Means under names that may hold slashes.

    Args:
        names: known beforehand; others are added when they are first used.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__()
        self.means = nn.ModuleDict()
        for name in names:
            self._mean(name)

    def add(self, name: str, total: Tensor, count: Tensor | int) -> None:
        """Adds the sum over `count` items."""
        mean = self._mean(name).to(total.device)
        mean.update(total, count)

    def take(self) -> dict[str, Tensor]:
        """The means of what was added since the last call, over all ranks; names without items are left out."""
        taken = {}
        for key, mean in self.means.items():
            assert isinstance(mean, MeanPerItem)
            mean.update(torch.zeros_like(mean.total), 0)  # ranks that counted nothing take part in the sum all the same
            value = mean.compute()
            if not mean.is_empty:
                taken[key.replace("__", "/")] = value
            mean.reset()
        return taken

    def reset(self) -> None:
        """Forgets what was added since the last `take`."""
        for mean in self.means.values():
            mean.reset()  # type: ignore[operator]

    def sums(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and count of what this rank added since the last `take`, under each name: for a checkpoint."""
        means = {name: mean for name, mean in self.means.items() if isinstance(mean, MeanPerItem)}
        return {name: (mean.total.detach().cpu(), mean.count.cpu()) for name, mean in means.items()}

    def load_sums(self, sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Goes on from them: a run that is resumed in the middle of an epoch reports the whole of it."""
        self.reset()
        for name, (total, count) in sums.items():
            self.add(name, total.to(self._mean(name).device), count.to(self._mean(name).device))

    def _mean(self, name: str) -> MeanPerItem:
        key = name.replace("/", "__")  # a module's name must hold no dot; a slash would read as a path in checkpoints
        if key not in self.means:
            self.means[key] = MeanPerItem()
        mean = self.means[key]
        assert isinstance(mean, MeanPerItem)
        return mean


class RankingAccuracy(_ExactMetric):
    """Share of ordered pairs whose better member has the higher score; ties in score count one half.

    Args:
        pairs: which ordered pairs count: all, or those whose better response is longer, or shorter, than the other.
    """

    correct: Tensor
    num_pairs: Tensor

    def __init__(self, pairs: str = "all", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs = pairs
        self.add_state("correct", default=torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("num_pairs", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, ranks: Tensor, candidate_mask: Tensor, lengths: Tensor) -> None:
        """Adds prompts.

        Args:
            scores: `(B, K)`.
            ranks: `(B, K)`, 0 = best.
            candidate_mask: `(B, K)`, True = keep.
            lengths: `(B, K)` tokens per response.
        """
        # every ordered pair as a ranking of two, so that the formula stays in the functional core
        better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1, device=scores.device)
        pair = torch.stack([better, worse], dim=-1)
        pair_ranks, pair_mask = ranks[:, pair].flatten(0, 1), candidate_mask[:, pair].flatten(0, 1)
        keep = pair_mask.all(-1) & (pair_ranks[:, 0] != pair_ranks[:, 1])
        if self.pairs != "all":
            pair_lengths = lengths[:, pair].flatten(0, 1)
            longer = torch.where(pair_ranks[:, 0] < pair_ranks[:, 1], 1, -1) * (pair_lengths[:, 0] - pair_lengths[:, 1])
            keep &= longer > 0 if self.pairs == "longer" else longer < 0
        num_pairs = keep.sum()
        if num_pairs == 0:
            return
        pair_scores = scores[:, pair].flatten(0, 1)[keep]
        accuracy = ranking_accuracy(pair_scores, pair_ranks[keep], pair_mask[keep])
        self.correct += accuracy.float() * num_pairs
        self.num_pairs += num_pairs

    def compute(self) -> Tensor:
        """The share; nan when there was no such pair."""
        return self.correct / self.num_pairs
