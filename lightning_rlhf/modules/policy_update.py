"""What PPO minimises on a minibatch, and what is said of an iteration's minibatches."""

import torch
from torch import Tensor, nn

from lightning_rlhf.arguments import require, require_at_least, require_positive
from lightning_rlhf.batches import Rollout
from lightning_rlhf.functional import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss
from lightning_rlhf.modules.metrics import NamedMeans

__all__ = ["PolicyUpdate"]

_METRICS = (
    "loss/policy",
    "loss/value",
    "loss/ptx",
    "policy/approx_kl",
    "policy/clip_fraction",
    "policy/skipped_share",
)


class PolicyUpdate(nn.Module):
    """The clipped losses of policy and value model, and their means over the minibatches of an iteration.

    Args:
        clip_range: of the probability ratio.
        value_clip_range: how far a value may move from the one at sampling.
        value_coef: weight of the value loss.

    Raises:
        ConfigError: one of them is out of its range.
    """

    def __init__(self, *, clip_range: float, value_clip_range: float, value_coef: float) -> None:
        super().__init__()
        require(0 < clip_range < 1, "clip_range", "be between 0 and 1", clip_range)
        require_positive(value_clip_range=value_clip_range)
        require_at_least(0, value_coef=value_coef)
        self.clip_range = clip_range
        self.value_clip_range = value_clip_range
        self.value_coef = value_coef
        self.metrics = NamedMeans(_METRICS)

    def policy_loss(self, logprobs: Tensor, rollout: Rollout, num_targets: Tensor) -> Tensor:
        """The clipped loss of the policy.

        Args:
            logprobs: of the response tokens under the current weights, `(B, R)`.
            rollout: the minibatch, on the same device.
            num_targets: the denominator: response tokens in the loss of the accumulation window, over all ranks.
        """
        mask, old = rollout.loss_mask, rollout.old_logprobs
        loss = clipped_policy_loss(
            logprobs, old, rollout.advantages, mask, clip_range=self.clip_range, num_targets=num_targets
        )
        taken, count = logprobs.detach(), mask.sum()
        self._add_share_skipped(torch.zeros_like(loss))
        self.metrics.add("loss/policy", loss * num_targets, count)
        self.metrics.add("policy/approx_kl", approx_kl(taken, old, mask) * count, count)
        fraction = clip_fraction(taken, old, mask, clip_range=self.clip_range)
        self.metrics.add("policy/clip_fraction", fraction * count, count)
        return loss

    def value_loss(self, values: Tensor, rollout: Rollout, num_targets: Tensor) -> Tensor:
        """The clipped loss of the value model, times its weight.

        Args:
            values: under the current weights, `(B, R)`.
            rollout: the minibatch, on the same device.
            num_targets: as above.
        """
        loss = clipped_value_loss(
            values,
            rollout.old_values,
            rollout.returns,
            rollout.loss_mask,
            value_clip_range=self.value_clip_range,
            num_targets=num_targets,
        )
        self.metrics.add("loss/value", loss * num_targets, rollout.loss_mask.sum())
        return self.value_coef * loss

    def skip(self, device: torch.device) -> None:
        """Counts a minibatch that nothing is learned from."""
        self._add_share_skipped(torch.ones((), device=device))

    def _add_share_skipped(self, share: Tensor) -> None:
        self.metrics.add("policy/skipped_share", share, 1)
