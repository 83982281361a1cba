import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss

LOGPROBS = torch.tensor([[-0.5, -1.0, -2.0], [-0.3, -1.5, -0.9]], dtype=torch.float64)
OLD_LOGPROBS = torch.tensor([[-0.9, -0.95, -1.2], [-0.8, -0.7, -0.2]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1.0, -0.5, 2.0], [-1.5, 0.3, 0.7]], dtype=torch.float64)
VALUES = torch.tensor([[0.1, 0.9, -0.4], [1.2, 0.0, 0.6]], dtype=torch.float64)
OLD_VALUES = torch.tensor([[0.6, 0.8, -0.5], [0.2, 0.1, 0.5]], dtype=torch.float64)
RETURNS = torch.tensor([[0.5, 1.5, -0.9], [0.4, 0.7, 0.1]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])
NOTHING = torch.zeros(2, 3, dtype=torch.bool)


@st.composite
def updates(draw):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    mask = torch.rand(shape, generator=generator) < 0.7
    return (*torch.randn(3, *shape, generator=generator, dtype=torch.float64), mask)


def kept_rows(*tensors, mask):
    rows = zip(*(x.flatten().tolist() for x in tensors), mask.flatten().tolist(), strict=True)
    return [row[:-1] for row in rows if row[-1]]


def slow_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    """The case distinction that the formula stands for."""
    rows = kept_rows(logprobs, old_logprobs, advantages, mask=mask)
    total = 0.0
    for logprob, old_logprob, advantage in rows:
        ratio = math.exp(logprob - old_logprob)
        limited = min(ratio, 1 + clip_range) if advantage >= 0 else max(ratio, 1 - clip_range)
        total -= advantage * limited
    return total / max(len(rows), 1)


def slow_value_loss(values, old_values, returns, mask, clip_range):
    rows = kept_rows(values, old_values, returns, mask=mask)
    total = 0.0
    for value, old_value, target in rows:
        clipped = min(max(value, old_value - clip_range), old_value + clip_range)
        total += max((value - target) ** 2, (clipped - target) ** 2) / 2
    return total / max(len(rows), 1)


def one(number):
    return torch.tensor([[number]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.5, 2.0, -2.4),  # a good token is not made likelier than 1 + c ...
        (0.5, 2.0, -1.0),
        (0.5, -2.0, 1.6),  # ... and a bad one not less likely than 1 - c, but neither is held back on the way home
        (1.5, -2.0, 3.0),
        (1.1, 2.0, -2.2),
    ],
)
def test_policy_loss_by_hand(ratio, advantage, loss):
    value = clipped_policy_loss(one(math.log(ratio)), one(0.0), one(advantage), one(1.0) > 0, clip_range=0.2)
    assert value.item() == pytest.approx(loss)


@pytest.mark.parametrize(
    ("value", "old_value", "target", "loss"),
    [
        (1.0, 0.0, 2.0, 0.5 * 1.8**2),  # the clipped value is further off: a step this long is not rewarded
        (1.0, 0.0, 0.0, 0.5),  # the value itself is further off
        (0.1, 0.0, 2.0, 0.5 * 1.9**2),
        (-1.0, 0.0, -2.0, 0.5 * 1.8**2),
    ],
)
def test_value_loss_by_hand(value, old_value, target, loss):
    value = clipped_value_loss(one(value), one(old_value), one(target), one(1.0) > 0, value_clip_range=0.2)
    assert value.item() == pytest.approx(loss)


def test_statistics_by_hand():
    logprobs = torch.tensor([[0.5, 0.25, 0.1, 0.125]], dtype=torch.float64).log()
    old_logprobs = torch.tensor([[0.25, 0.25, 0.3, 0.25]], dtype=torch.float64).log()
    mask = torch.tensor([[True, True, False, True]])
    assert clip_fraction(logprobs, old_logprobs, mask, clip_range=0.2).item() == pytest.approx(2 / 3)
    assert clip_fraction(logprobs, old_logprobs, mask, clip_range=0.6).item() == pytest.approx(1 / 3)
    expected = ((2 - 1 - math.log(2)) + 0 + (0.5 - 1 + math.log(2))) / 3
    assert approx_kl(logprobs, old_logprobs, mask).item() == pytest.approx(expected)


@given(updates(), st.sampled_from([0.05, 0.2, 0.9]))
def test_losses_and_statistics_agree_with_slow_loops(update, clip_range):
    x, y, z, mask = update
    policy_loss = clipped_policy_loss(x, y, z, mask, clip_range=clip_range)
    assert policy_loss.item() == pytest.approx(slow_policy_loss(x, y, z, mask, clip_range))
    value_loss = clipped_value_loss(x, y, z, mask, value_clip_range=clip_range)
    assert value_loss.item() == pytest.approx(slow_value_loss(x, y, z, mask, clip_range))
    differences = [a - b for a, b in kept_rows(x, y, mask=mask)]
    count = max(len(differences), 1)
    clipped = sum(abs(math.exp(d) - 1) > clip_range for d in differences)
    assert clip_fraction(x, y, mask, clip_range=clip_range).item() == pytest.approx(clipped / count)
    divergence = sum(math.exp(d) - 1 - d for d in differences)
    assert approx_kl(x, y, mask).item() == pytest.approx(divergence / count)


@given(updates(), st.integers(1, 4))
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(update, num_rows):
    x, y, z, mask = update
    num_targets = mask.sum()
    policy_loss = functools.partial(clipped_policy_loss, clip_range=0.2)
    value_loss = functools.partial(clipped_value_loss, value_clip_range=0.2)
    for loss in (policy_loss, value_loss):
        leaf = x.clone().requires_grad_()
        (whole,) = torch.autograd.grad(loss(leaf, y, z, mask), leaf)
        for start in range(0, len(x), num_rows):
            rows = slice(start, start + num_rows)
            loss(leaf[rows], y[rows], z[rows], mask[rows], num_targets=num_targets).backward()
        torch.testing.assert_close(leaf.grad, whole)


def test_the_policy_that_sampled_has_ratio_1():
    mask = torch.ones(2, 3, dtype=torch.bool)
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = clipped_policy_loss(logprobs, LOGPROBS, ADVANTAGES, mask, clip_range=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-ADVANTAGES.mean().item())
    torch.testing.assert_close(logprobs.grad, -ADVANTAGES / 6)  # the policy gradient
    assert clip_fraction(LOGPROBS, LOGPROBS, mask, clip_range=0.0).item() == 0
    assert approx_kl(LOGPROBS, LOGPROBS, mask).item() == 0


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 2.0), (0.5, -2.0)])
def test_beyond_the_clip_range_there_is_no_gradient(ratio, advantage):
    logprobs = one(math.log(ratio)).requires_grad_()
    clipped_policy_loss(logprobs, one(0.0), one(advantage), one(1.0) > 0, clip_range=0.2).backward()
    assert logprobs.grad.item() == 0


def test_without_clipping_the_value_loss_is_half_the_mean_squared_error():
    loss = clipped_value_loss(VALUES, OLD_VALUES, RETURNS, MASK, value_clip_range=math.inf)
    torch.testing.assert_close(loss, (VALUES - RETURNS)[MASK].square().mean() / 2)


def test_the_given_number_of_targets_divides_the_sum():
    mean = clipped_policy_loss(LOGPROBS, OLD_LOGPROBS, ADVANTAGES, MASK, clip_range=0.2)
    for num_targets in (12, torch.tensor(12)):
        loss = clipped_policy_loss(LOGPROBS, OLD_LOGPROBS, ADVANTAGES, MASK, clip_range=0.2, num_targets=num_targets)
        torch.testing.assert_close(loss, mean * 3 / 12)


def test_policy_loss_never_reads_past_the_stop_token(assert_blind):
    assert_blind(
        lambda x, y, a: clipped_policy_loss(x, y, a, MASK, clip_range=0.2),
        (LOGPROBS, MASK),
        (OLD_LOGPROBS, MASK),
        (ADVANTAGES, MASK),
    )


def test_value_loss_never_reads_past_the_stop_token(assert_blind):
    assert_blind(
        lambda v, o, r: clipped_value_loss(v, o, r, MASK, value_clip_range=0.2),
        (VALUES, MASK),
        (OLD_VALUES, MASK),
        (RETURNS, MASK),
    )


def test_statistics_never_read_past_the_stop_token(assert_blind):
    inputs = (LOGPROBS, MASK), (OLD_LOGPROBS, MASK)
    assert_blind(lambda x, y: approx_kl(x, y, MASK), *inputs)
    assert_blind(lambda x, y: clip_fraction(x, y, MASK, clip_range=0.2), *inputs)


@pytest.mark.parametrize("num_targets", [None, 0, 5, torch.tensor(5)], ids=str)
def test_an_empty_mask_gives_0_with_zero_gradient(num_targets):
    x = LOGPROBS.clone().requires_grad_()
    losses = [
        clipped_policy_loss(x, OLD_LOGPROBS, ADVANTAGES, NOTHING, clip_range=0.2, num_targets=num_targets),
        clipped_value_loss(x, OLD_VALUES, RETURNS, NOTHING, value_clip_range=0.2, num_targets=num_targets),
        approx_kl(x, OLD_LOGPROBS, NOTHING),
    ]
    sum(losses).backward()
    assert all(loss.item() == 0 for loss in losses)
    assert not x.grad.any()
    assert clip_fraction(x, OLD_LOGPROBS, NOTHING, clip_range=0.2).item() == 0


def test_only_the_policy_and_the_values_get_a_gradient():
    x, y, z = (t.clone().requires_grad_() for t in (LOGPROBS, OLD_LOGPROBS, ADVANTAGES))
    clipped_policy_loss(x, y, z, MASK, clip_range=0.2).backward()
    clipped_value_loss(x, y, z, MASK, value_clip_range=0.2).backward()
    assert x.grad is not None
    assert y.grad is None
    assert z.grad is None


def test_gradients():
    x = LOGPROBS.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: clipped_policy_loss(x, OLD_LOGPROBS, ADVANTAGES, MASK, clip_range=0.2, num_targets=7), x
    )
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, OLD_VALUES, RETURNS, MASK, value_clip_range=0.2), x)
    assert torch.autograd.gradcheck(lambda x: approx_kl(x, OLD_LOGPROBS, MASK), x)
