"""What is said of an iteration's minibatches."""

import pytest
import torch

from lightning_rlhf.batches import Rollout
from lightning_rlhf.modules.policy_update import PolicyUpdate


def a_rollout(rows=2, length=3):
    zeros = torch.zeros(rows, length)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    ids = zeros.long()
    return Rollout(ids, mask, ids, mask, mask, zeros, zeros, zeros, zeros + 1.0, zeros + 2.0)


def test_the_share_of_minibatches_that_were_left_out_is_exact():
    update = PolicyUpdate(clip_range=0.2, value_clip_range=0.2, value_coef=0.5)
    rollout = a_rollout()
    update.policy_loss(torch.zeros(2, 3), rollout, torch.tensor(4))
    for _ in range(3):
        update.skip(torch.device("cpu"))
    assert float(update.metrics.take()["policy/skipped_share"]) == 0.75
    update.policy_loss(torch.zeros(2, 3), rollout, torch.tensor(4))
    assert float(update.metrics.take()["policy/skipped_share"]) == 0.0


def test_means_are_over_the_response_tokens_in_the_loss_and_not_over_minibatches():
    update = PolicyUpdate(clip_range=0.2, value_clip_range=10.0, value_coef=0.5)
    rollout, other = a_rollout(), a_rollout()
    other = other._replace(loss_mask=torch.tensor([[True, False, False], [False] * 3]))
    ratios = torch.log(torch.tensor([[1.1, 1.5, 1.0], [1.0, 9.0, 9.0]])), torch.zeros(2, 3)
    values = torch.full((2, 3), 1.0), torch.full((2, 3), 0.0)
    weighted = []
    for logprobs, value, part, number in zip(ratios, values, (rollout, other), (4, 1), strict=True):
        update.policy_loss(logprobs, part, torch.tensor(number))
        weighted.append(float(update.value_loss(value, part, torch.tensor(number))))
    assert weighted == pytest.approx([0.5 * 0.5, 0.5 * 2.0])  # of 1/2 (1 - 2)^2 and of 1/2 (0 - 2)^2
    means = {name: float(value) for name, value in update.metrics.take().items()}
    assert means["loss/policy"] == pytest.approx(-(1.1 + 1.2 + 1 + 1 + 1) / 5)
    assert means["loss/value"] == pytest.approx((4 * 0.5 + 2.0) / 5)
    assert means["policy/clip_fraction"] == pytest.approx(1 / 5)
    kl = sum(ratio - 1 - torch.log(torch.tensor(ratio)) for ratio in (1.1, 1.5)) / 5
    assert means["policy/approx_kl"] == pytest.approx(float(kl), abs=1e-6)
