import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional import next_token_loss, token_cross_entropy

LOGITS = torch.linspace(-3, 3, 2 * 4 * 3, dtype=torch.float64).sin().reshape(2, 4, 3)
LABELS = torch.tensor([[-100, 2, 0, 1], [-100, -100, 1, -100]])
PREDICTS = torch.tensor([[True, True, True, False], [False, True, False, False]])


def slow_surprise(row, token):
    return math.log(math.fsum(math.exp(z) for z in row)) - row[token]


def slow_next_token_losses(logits, labels):
    return [
        slow_surprise(logits[i, t - 1].tolist(), labels[i, t].item())
        for i in range(labels.shape[0])
        for t in range(1, labels.shape[1])
        if labels[i, t] != -100
    ]


@st.composite
def batches(draw):
    num_rows, num_tokens = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = torch.randn(num_rows, num_tokens, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (num_rows, num_tokens), generator=generator)
    ignored = torch.rand(num_rows, num_tokens, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return logits, labels.masked_fill(ignored, -100)


def test_token_cross_entropy_by_hand():
    logits = torch.tensor([[1.0, 3.0], [1.0, 1.0]], dtype=torch.float64).log()
    loss = token_cross_entropy(logits, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)


def test_next_token_loss_by_hand():
    weights = torch.tensor([[[1.0, 3.0], [4.0, 1.0], [1.0, 9.0]]], dtype=torch.float64)
    loss = next_token_loss(weights.log(), torch.tensor([[0, 1, 0]]))
    # row 0 predicts label 1, row 1 predicts label 2; label 0 and row 2 have no partner
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(4 / 5)) / 2)


@given(batches())
def test_next_token_loss_agrees_with_a_slow_loop(batch):
    losses = slow_next_token_losses(*batch)
    assert next_token_loss(*batch).item() == pytest.approx(math.fsum(losses) / max(len(losses), 1))


@given(batches(), st.integers(1, 3), st.sampled_from([0.0, 1e9, math.nan]))
def test_padding_on_either_side_changes_nothing(batch, num_columns, garbage):
    logits, labels = batch
    pad = torch.full((len(labels), num_columns, 4), garbage, dtype=torch.float64)
    ignored = labels.new_full((len(labels), num_columns), -100)
    expected = next_token_loss(logits, labels.index_fill(1, torch.tensor([0]), -100))
    right = next_token_loss(torch.cat([logits, pad], 1), torch.cat([labels, ignored], 1))
    torch.testing.assert_close(right, expected)
    first_ignored = labels.index_fill(1, torch.tensor([0]), -100)
    left = next_token_loss(torch.cat([pad, logits], 1), torch.cat([ignored, first_ignored], 1))
    torch.testing.assert_close(left, expected)


@given(batches(), st.integers(1, 3))
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(batch, num_rows):
    logits, labels = batch
    num_targets = (labels[:, 1:] != -100).sum()
    leaf = logits.clone().requires_grad_()
    (whole,) = torch.autograd.grad(next_token_loss(leaf, labels), leaf)
    for start in range(0, len(labels), num_rows):
        rows = slice(start, start + num_rows)
        next_token_loss(leaf[rows], labels[rows], num_targets=num_targets).backward()
    torch.testing.assert_close(leaf.grad, whole)


def test_a_model_that_knows_the_next_token_has_no_loss_and_one_that_repeats_the_last_has():
    labels = torch.tensor([[0, 1, 2, 0]])
    knows, repeats = torch.full((2, 1, 4, 3), -50.0)
    knows[0, range(3), labels[0, 1:]] = 50.0
    repeats[0, range(4), labels[0]] = 50.0
    assert next_token_loss(knows, labels).item() < 1e-6
    assert next_token_loss(repeats, labels).item() > 99


def test_full_logits_and_the_positions_that_a_loss_reads_give_the_same():
    targets = LABELS[:, 1:]
    read = targets != -100
    loss = token_cross_entropy(LOGITS[:, :-1][read], targets[read])
    torch.testing.assert_close(next_token_loss(LOGITS, LABELS), loss)


def test_garbage_at_positions_that_predict_nothing_changes_nothing(assert_blind):
    mask = PREDICTS.unsqueeze(-1).expand_as(LOGITS)
    assert_blind(lambda z: next_token_loss(z, LABELS), (LOGITS, mask))


@pytest.mark.parametrize("num_targets", [None, 0, 5, torch.tensor(5)], ids=str)
@pytest.mark.parametrize("num_tokens", [1, 4])
def test_without_a_target_a_loss_is_0_with_zero_gradient(num_targets, num_tokens):
    logits = LOGITS[:, :num_tokens].clone().requires_grad_()
    ignored = torch.full((2, num_tokens), -100)
    value = next_token_loss(logits, ignored, num_targets=num_targets)
    value = value + token_cross_entropy(logits[0, :0], ignored[0, :0], num_targets=num_targets)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_the_given_number_of_targets_divides_the_sum():
    for num_targets in (16, torch.tensor(16)):
        loss = next_token_loss(LOGITS, LABELS, num_targets=num_targets)
        torch.testing.assert_close(loss, next_token_loss(LOGITS, LABELS) * 4 / 16)


def test_gradients():
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: next_token_loss(z, LABELS), logits)
    assert torch.autograd.gradcheck(
        lambda z: token_cross_entropy(z[0], torch.tensor([0, 2, 1, 1]), num_targets=9), logits
    )
