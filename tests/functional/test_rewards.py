import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional import completion_mask, shape_rewards

SCORES = torch.tensor([1.0, -2.0], dtype=torch.float64)
TOKEN_SCORES = torch.tensor([[0.5, 1.0, 9.0], [-1.0, 8.0, 7.0]], dtype=torch.float64)
KL = torch.tensor([[0.5, -0.25, 9.0], [2.0, 8.0, 7.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])
ROWS = torch.ones(2, dtype=torch.bool)


def slow_token_rewards(scores, kl, lengths, kl_coef):
    token_rewards = [[0.0] * len(row) for row in kl]
    for i, length in enumerate(lengths):
        for t in range(length):
            token_rewards[i][t] = -kl_coef * kl[i][t]
            if isinstance(scores[i], list):
                token_rewards[i][t] += scores[i][t]
            elif t == length - 1:
                token_rewards[i][t] += scores[i]
    return token_rewards


def test_token_rewards_by_hand():
    expected = torch.tensor([[-0.05, 1.025, 0.0], [-2.2, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(shape_rewards(SCORES, KL, MASK, kl_coef=0.1), expected)


def test_token_rewards_by_hand_with_a_score_per_token():
    expected = torch.tensor([[0.45, 1.025, 0.0], [-1.2, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(shape_rewards(TOKEN_SCORES, KL, MASK, kl_coef=0.1), expected)


def test_the_score_is_paid_on_the_stop_token_and_the_kl_is_charged_there_too():
    mask = completion_mask(torch.tensor([[7, 2, 2, 2]]), [2])
    token_rewards = shape_rewards(torch.tensor([1.0]), torch.full((1, 4), 0.5), mask, kl_coef=1.0)
    assert token_rewards.tolist() == [[-0.5, 0.5, 0.0, 0.0]]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.integers(0, 999),
)
def test_token_rewards_agree_with_a_slow_loop(lengths, per_token, kl_coef, seed):
    generator = torch.Generator().manual_seed(seed)
    kl = torch.randn(len(lengths), 5, generator=generator, dtype=torch.float64)
    scores = torch.randn((len(lengths), 5) if per_token else len(lengths), generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    actual = shape_rewards(scores, kl, mask, kl_coef=kl_coef)
    expected = slow_token_rewards(scores.tolist(), kl.tolist(), lengths, kl_coef)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_the_rewards_of_a_response_sum_to_its_score_less_its_kl():
    totals = shape_rewards(SCORES, KL, MASK, kl_coef=0.1).sum(1)
    torch.testing.assert_close(totals, SCORES - 0.1 * (KL * MASK).sum(1))


def test_the_coefficient_may_be_a_tensor():
    actual = shape_rewards(SCORES, KL, MASK, kl_coef=torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(actual, shape_rewards(SCORES, KL, MASK, kl_coef=0.1))


def test_garbage_under_the_mask_changes_nothing(assert_blind):
    assert_blind(lambda s, k: shape_rewards(s, k, MASK, kl_coef=0.1), (SCORES, ROWS), (KL, MASK))
    assert_blind(lambda s, k: shape_rewards(s, k, MASK, kl_coef=0.1), (TOKEN_SCORES, MASK), (KL, MASK))


def test_a_row_without_a_token_gets_no_score(garbage):
    token_rewards = shape_rewards(torch.full((1,), garbage), torch.ones(1, 3), torch.zeros(1, 3).bool(), kl_coef=0.1)
    assert not token_rewards.any()


@pytest.mark.parametrize("scores", [SCORES, TOKEN_SCORES], ids=["per response", "per token"])
def test_gradients(scores):
    inputs = (scores.clone().requires_grad_(), KL.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda s, k: shape_rewards(s, k, MASK, kl_coef=0.1), inputs)
