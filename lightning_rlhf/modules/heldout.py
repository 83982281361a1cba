"""What validation of a policy adds up over its batches."""

from itertools import chain

import torch
from torch import nn

from lightning_rlhf.callbacks import Sample
from lightning_rlhf.modules.metrics import NamedMeans
from lightning_rlhf.rollout import Evaluation

__all__ = ["HeldoutResponses"]


class HeldoutResponses(nn.Module):
    """Means over the responses to held-out prompts, sampled and greedy, and a few of them to show.

    Args:
        num_samples: prompts of the first batch whose responses are kept to be shown.
    """

    def __init__(self, num_samples: int = 8) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.means = NamedMeans()
        self.samples: list[Sample] = []

    def add(self, sampled: Evaluation, greedy: Evaluation, device: torch.device, *, show: bool) -> None:
        """Adds a batch.

        Args:
            sampled: one sampled response per prompt.
            greedy: the most probable response per prompt; its means get the prefix `greedy_`.
            device: where ranks add up.
            show: keep samples, both of a prompt beside each other.
        """
        for prefix, evaluation in (("", sampled), ("greedy_", greedy)):
            for name, values in evaluation.columns.items():
                self.means.add(f"{prefix}{name}", values.sum().to(device), len(values))
        if show:
            pairs = zip(_samples(sampled, "sampled"), _samples(greedy, "greedy"), strict=True)
            self.samples = list(chain.from_iterable(pairs))[: 2 * self.num_samples]

    def take_samples(self) -> list[Sample]:
        """The samples that were kept, once."""
        samples, self.samples = self.samples, []
        return samples


def _samples(evaluation: Evaluation, label: str) -> list[Sample]:
    return [Sample(each.prompt, each.response, each.scores, each.kl, label) for each in evaluation.samples]
