import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_rlhf.functional import (
    centering_penalty,
    pairwise_ranking_loss,
    plackett_luce_loss,
    ranking_accuracy,
    regression_loss,
)
from lightning_rlhf.functional.ranking import ordered_pairs

SCORES = torch.tensor([[0.3, -1.2, 0.7], [1.4, 0.1, -0.6]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0, 0.0, -1.0], [0.5, -0.5, 3.0]], dtype=torch.float64)
RANKS = torch.tensor([[0, 2, 1], [1, 0, 0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
NOTHING = torch.zeros(2, 3, dtype=torch.bool)
MARGINS = 0.3 * (TARGETS[:, :, None] - TARGETS[:, None, :])
RANKING_LOSSES = [pairwise_ranking_loss, plackett_luce_loss, centering_penalty]
LOSSES = [*RANKING_LOSSES, regression_loss]


@st.composite
def rankings(draw):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        scores = scores.round()  # ties in score
    ranks = torch.randint(draw(st.sampled_from([1, 2, 5])), shape, generator=generator)  # ties in rank
    mask = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    return scores, ranks, mask


def slow_pairs(ranks, mask):
    """Per prompt: the pairs of a better and a worse candidate."""
    return [
        [(i, j) for i, j in itertools.permutations(range(len(row)), 2) if keep[i] and keep[j] and row[i] < row[j]]
        for row, keep in zip(ranks.tolist(), mask.tolist(), strict=True)
    ]


def slow_mean(per_prompt):
    """The mean over the prompts that have an ordered pair: the others are None."""
    counted = [value for value in per_prompt if value is not None]
    return math.fsum(counted) / len(counted) if counted else 0.0


def slow_pairwise(scores, ranks, mask, value):
    return slow_mean(
        [
            math.fsum(value(b, scores[b, i].item(), scores[b, j].item(), i, j) for i, j in pairs) / len(pairs)
            if pairs
            else None
            for b, pairs in enumerate(slow_pairs(ranks, mask))
        ]
    )


def slow_plackett_luce(scores, ranks, mask):
    losses = []
    for b, pairs in enumerate(slow_pairs(ranks, mask)):
        loss = 0.0
        for i in range(scores.shape[1]):
            if mask[b, i]:
                beaten = [j for winner, j in pairs if winner == i]
                loss += math.log(sum(math.exp(scores[b, j].item()) for j in [i, *beaten])) - scores[b, i].item()
        losses.append(loss if pairs else None)
    return slow_mean(losses)


def softplus(x):
    return math.log1p(math.exp(x))


def test_pairwise_loss_by_hand():
    # pairs of prompt 0: (0,1), (0,2), (2,1); of prompt 1: (1,0)
    first = (softplus(-1.5) + softplus(0.4) + softplus(-1.9)) / 3
    second = softplus(1.3)
    loss = pairwise_ranking_loss(SCORES, RANKS, MASK)
    assert loss.item() == pytest.approx((first + second) / 2)


def test_pairwise_loss_by_hand_with_margins():
    scores, ranks, mask = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    margins = torch.tensor([[[0.0, 0.4], [-0.4, 0.0]]])
    assert pairwise_ranking_loss(scores, ranks, mask, margins=margins).item() == pytest.approx(softplus(-0.6))


def test_plackett_luce_loss_by_hand():
    scores = torch.tensor([[math.log(3), math.log(1), math.log(2)]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    loss = plackett_luce_loss(scores, torch.tensor([[0, 2, 1]]), mask)
    assert loss.item() == pytest.approx(-math.log(3 / 6 * 2 / 3))
    # tied at the top: each against itself and the last one
    loss = plackett_luce_loss(scores, torch.tensor([[0, 1, 0]]), mask)
    assert loss.item() == pytest.approx(-math.log(3 / 4 * 2 / 3))


def test_regression_loss_by_hand():
    # prompt 0: .49, 1.44, 2.89; prompt 1: .81, .36
    assert regression_loss(SCORES, TARGETS, MASK).item() == pytest.approx((4.82 / 3 + 1.17 / 2) / 2)


def test_centering_penalty_by_hand():
    # prompt 0: (.3-1.2)^2, (.3+.7)^2, (.7-1.2)^2; prompt 1: (1.4+.1)^2
    assert centering_penalty(SCORES, RANKS, MASK).item() == pytest.approx(((0.81 + 1 + 0.25) / 3 + 2.25) / 2)


def test_accuracy_by_hand():
    scores = torch.tensor([[2.0, 1.0, 1.0], [0.0, 1.0, 5.0]])
    ranks = torch.tensor([[0, 1, 2], [0, 1, 9]])
    # right, right, half; wrong
    assert ranking_accuracy(scores, ranks, MASK).item() == pytest.approx(2.5 / 4)


def test_ordered_pairs_by_hand():
    assert ordered_pairs(RANKS, MASK).nonzero().tolist() == [[0, 0, 1], [0, 0, 2], [0, 2, 1], [1, 1, 0]]


@given(rankings())
def test_losses_and_accuracy_agree_with_slow_loops(ranking):
    scores, ranks, mask = ranking
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    margins = 0.5 * (targets[:, :, None] - targets[:, None, :])
    expected = slow_pairwise(scores, ranks, mask, lambda b, s, t, i, j: softplus(t - s))
    assert pairwise_ranking_loss(scores, ranks, mask).item() == pytest.approx(expected)
    expected = slow_pairwise(scores, ranks, mask, lambda b, s, t, i, j: softplus(t - s + margins[b, i, j].item()))
    assert pairwise_ranking_loss(scores, ranks, mask, margins=margins).item() == pytest.approx(expected)
    expected = slow_pairwise(scores, ranks, mask, lambda b, s, t, i, j: (s + t) ** 2)
    assert centering_penalty(scores, ranks, mask).item() == pytest.approx(expected)
    assert plackett_luce_loss(scores, ranks, mask).item() == pytest.approx(slow_plackett_luce(scores, ranks, mask))
    wins = [
        1.0 if scores[b, i] > scores[b, j] else 0.5 if scores[b, i] == scores[b, j] else 0.0
        for b, pairs in enumerate(slow_pairs(ranks, mask))
        for i, j in pairs
    ]
    assert ranking_accuracy(scores, ranks, mask).item() == pytest.approx(sum(wins) / max(len(wins), 1))
    errors = [
        [(s - y) ** 2 for s, y, keep in zip(*row, strict=True) if keep]
        for row in zip(scores.tolist(), targets.tolist(), mask.tolist(), strict=True)
    ]
    expected = slow_mean([sum(row) / len(row) if row else None for row in errors])
    assert regression_loss(scores, targets, mask).item() == pytest.approx(expected)


@given(rankings(), st.integers(0, 999))
def test_the_order_of_the_candidates_does_not_matter(ranking, seed):
    order = torch.randperm(ranking[0].shape[1], generator=torch.Generator().manual_seed(seed))
    shuffled = [x[:, order] for x in ranking]
    for function in [*RANKING_LOSSES, ranking_accuracy]:
        torch.testing.assert_close(function(*shuffled), function(*ranking))


@given(rankings(), st.floats(-20, 20))
def test_a_shift_of_all_scores_does_not_matter(ranking, shift):
    scores, ranks, mask = ranking
    for function in [pairwise_ranking_loss, plackett_luce_loss]:
        torch.testing.assert_close(function(scores + shift, ranks, mask), function(scores, ranks, mask))


@given(rankings(), st.integers(1, 3))
def test_more_absent_candidates_and_absent_prompts_do_not_matter(ranking, num_more):
    scores, ranks, mask = ranking
    for dims in ((0, num_more), (0, 0, 0, num_more)):
        padded = F.pad(scores, dims, value=9.0), F.pad(ranks, dims, value=7), F.pad(mask, dims)
        for function in [*RANKING_LOSSES, ranking_accuracy]:
            torch.testing.assert_close(function(*padded), function(scores, ranks, mask))


@given(rankings(), st.integers(1, 4))
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(ranking, num_rows):
    scores, ranks, mask = ranking
    num_prompts = ordered_pairs(ranks, mask).any((1, 2)).sum()
    for loss in RANKING_LOSSES:
        leaf = scores.clone().requires_grad_()
        (whole,) = torch.autograd.grad(loss(leaf, ranks, mask), leaf)
        for start in range(0, len(scores), num_rows):
            rows = slice(start, start + num_rows)
            loss(leaf[rows], ranks[rows], mask[rows], num_prompts=num_prompts).backward()
        torch.testing.assert_close(leaf.grad, whole)


@pytest.mark.parametrize("loss", [pairwise_ranking_loss, plackett_luce_loss])
def test_two_candidates_are_the_loss_of_bradley_and_terry(loss):
    scores = torch.tensor([[0.4, 1.1], [2.0, -0.3], [0.2, 0.2]], dtype=torch.float64)
    ranks = torch.tensor([[0, 1], [1, 0], [0, 1]])
    chosen, rejected = torch.tensor([0.4, -0.3, 0.2]).double(), torch.tensor([1.1, 2.0, 0.2]).double()
    bradley_terry = -torch.log(torch.exp(chosen) / (torch.exp(chosen) + torch.exp(rejected))).mean()
    torch.testing.assert_close(loss(scores, ranks, torch.ones(3, 2, dtype=torch.bool)), bradley_terry)


def test_plackett_luce_probabilities_of_all_orders_sum_to_one():
    scores, mask = SCORES[:1], torch.ones(1, 3, dtype=torch.bool)
    losses = [plackett_luce_loss(scores, torch.tensor([order]), mask) for order in itertools.permutations(range(3))]
    assert sum(math.exp(-loss.item()) for loss in losses) == pytest.approx(1)


def test_a_prompt_weighs_the_same_whatever_its_number_of_candidates():
    scores = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    ranks, mask = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]]), torch.tensor([[True] * 4, [True, True, False, False]])
    pairwise_ranking_loss(scores, ranks, mask).backward()
    # every pair pulls with 1/2: 6 pairs in the first prompt, 1 in the second
    assert scores.grad[0].tolist() == pytest.approx([-3 / 24, -1 / 24, 1 / 24, 3 / 24])
    assert scores.grad[1].tolist() == pytest.approx([-1 / 4, 1 / 4, 0, 0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("function", [*RANKING_LOSSES, ranking_accuracy])
def test_ranks_may_be_integers_or_floats_and_only_their_order_counts(function, dtype):
    expected = function(SCORES, RANKS, MASK)
    torch.testing.assert_close(function(SCORES, (3 * RANKS + 1).to(dtype), MASK), expected, rtol=0, atol=0)


@pytest.mark.parametrize("function", [*RANKING_LOSSES, ranking_accuracy])
def test_garbage_under_the_candidate_mask_changes_nothing(function, assert_blind, garbage):
    ranks = RANKS.double().masked_fill(~MASK, garbage)
    assert_blind(lambda s: function(s, RANKS, MASK), (SCORES, MASK))
    assert_blind(lambda s: function(s, ranks, MASK), (SCORES, MASK))


def test_an_unranked_candidate_is_left_out_by_its_nan_alone():
    ranks = RANKS.double().masked_fill(~MASK, float("nan"))
    for function in [*RANKING_LOSSES, ranking_accuracy]:
        actual = function(SCORES, ranks, torch.ones_like(MASK))
        torch.testing.assert_close(actual, function(SCORES, RANKS, MASK))


def test_garbage_among_the_margins_and_targets_changes_nothing(assert_blind):
    pairs = ordered_pairs(RANKS, MASK)
    assert_blind(lambda s, m: pairwise_ranking_loss(s, RANKS, MASK, margins=m), (SCORES, MASK), (MARGINS, pairs))
    assert_blind(lambda s, y: regression_loss(s, y, MASK), (SCORES, MASK), (TARGETS, MASK))


@pytest.mark.parametrize("num_prompts", [None, 0, 5, torch.tensor(5)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_ranked_candidate_a_loss_is_0_with_zero_gradient(loss, num_prompts):
    scores = SCORES.clone().requires_grad_()
    value = loss(scores, TARGETS, NOTHING, num_prompts=num_prompts)
    value.backward()
    assert value.item() == 0
    assert not scores.grad.any()


@pytest.mark.parametrize("num_prompts", [None, 5], ids=str)
@pytest.mark.parametrize("loss", RANKING_LOSSES)
def test_a_ranking_whose_candidates_all_tie_is_left_out(loss, num_prompts):
    scores = SCORES.clone().requires_grad_()
    value = loss(scores, torch.zeros_like(RANKS), MASK, num_prompts=num_prompts)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert scores.grad.abs().max() < 1e-15
    assert ranking_accuracy(SCORES, torch.zeros_like(RANKS), MASK).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_given_number_of_prompts_divides_the_sum(loss):
    places = TARGETS if loss is regression_loss else RANKS
    mean = loss(SCORES, places, MASK)
    for num_prompts in (8, torch.tensor(8)):
        torch.testing.assert_close(loss(SCORES, places, MASK, num_prompts=num_prompts), mean * 2 / 8)


@pytest.mark.parametrize("distance", [-200.0, 200.0])
@pytest.mark.parametrize("loss", [pairwise_ranking_loss, plackett_luce_loss])
def test_scores_far_apart_neither_overflow_nor_lose_their_gradient(loss, distance):
    scores = torch.tensor([[distance, 0.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    value.backward()
    assert value.item() == pytest.approx(max(-distance, 0))
    assert scores.grad.tolist() == [[-1.0, 1.0]] if distance < 0 else [[0.0, 0.0]]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss):
    scores = SCORES.clone().requires_grad_()
    places = TARGETS if loss is regression_loss else RANKS
    assert torch.autograd.gradcheck(lambda s: loss(s, places, MASK), scores)
    assert torch.autograd.gradcheck(lambda s: loss(s, places, MASK, num_prompts=5), scores)


def test_gradients_with_margins():
    inputs = (SCORES.clone().requires_grad_(), MARGINS.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda s, m: pairwise_ranking_loss(s, RANKS, MASK, margins=m), inputs)
