import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional import generalized_advantage_estimation, shape_rewards


@st.composite
def rollouts(draw):
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    token_rewards, values = torch.randn(2, len(lengths), width, generator=generator, dtype=torch.float64)
    return token_rewards, values, torch.arange(width) < torch.tensor(lengths)[:, None]


def slow_advantages(token_rewards, values, gamma, gae_lambda):
    """The sum of eq. 16, term by term, of one response without padding."""
    num_tokens = len(token_rewards)
    values = [*values, 0.0]
    deltas = [token_rewards[t] + gamma * values[t + 1] - values[t] for t in range(num_tokens)]
    return [
        sum((gamma * gae_lambda) ** (later - t) * deltas[later] for later in range(t, num_tokens))
        for t in range(num_tokens)
    ]


def test_advantages_by_hand_of_a_score_on_the_third_token():
    mask = torch.ones(1, 3, dtype=torch.bool)
    token_rewards = shape_rewards(torch.ones(1), torch.zeros(1, 3), mask, kl_coef=0.1)
    advantages, returns = generalized_advantage_estimation(
        token_rewards, torch.zeros(1, 3), mask, gamma=1.0, gae_lambda=0.95
    )
    torch.testing.assert_close(advantages, torch.tensor([[0.9025, 0.95, 1.0]]))
    torch.testing.assert_close(returns, advantages)


def test_advantages_by_hand_with_values_and_a_discount():
    token_rewards = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    values = torch.tensor([[0.5, 4.0]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    advantages, returns = generalized_advantage_estimation(token_rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    # delta_1 = 2 - 4 = -2, delta_0 = 1 + .5 * 4 - .5 = 2.5, A_0 = 2.5 + .25 * -2 = 2
    assert advantages.tolist() == [[2.0, -2.0]]
    assert returns.tolist() == [[2.5, 2.0]]


@given(rollouts(), st.sampled_from([0.0, 0.9, 1.0]), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_advantages_agree_with_the_sum_of_the_paper(rollout, gamma, gae_lambda):
    token_rewards, values, mask = rollout
    advantages, returns = generalized_advantage_estimation(
        token_rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda
    )
    for i, length in enumerate(mask.sum(1).tolist()):
        row = slow_advantages(
            token_rewards[i, :length].tolist(), values[i, :length].tolist(), gamma=gamma, gae_lambda=gae_lambda
        )
        assert advantages[i, :length].tolist() == pytest.approx(row)
        assert returns[i, :length].tolist() == pytest.approx(
            [a + v for a, v in zip(row, values[i].tolist(), strict=False)]
        )
        assert not advantages[i, length:].any()
        assert not returns[i, length:].any()


@given(rollouts(), st.sampled_from([0.9, 1.0]))
def test_lambda_1_gives_monte_carlo_returns_whatever_the_values(rollout, gamma):
    token_rewards, values, mask = rollout
    _, returns = generalized_advantage_estimation(token_rewards, values, mask, gamma=gamma, gae_lambda=1.0)
    for i, length in enumerate(mask.sum(1).tolist()):
        for t in range(length):
            monte_carlo = sum(gamma ** (k - t) * token_rewards[i, k].item() for k in range(t, length))
            assert returns[i, t].item() == pytest.approx(monte_carlo)


@given(rollouts())
def test_lambda_0_gives_one_step_errors(rollout):
    token_rewards, values, mask = rollout
    advantages, _ = generalized_advantage_estimation(token_rewards, values, mask, gamma=0.9, gae_lambda=0.0)
    for i, length in enumerate(mask.sum(1).tolist()):
        for t in range(length):
            following = values[i, t + 1].item() if t + 1 < length else 0.0
            error = token_rewards[i, t].item() + 0.9 * following - values[i, t].item()
            assert advantages[i, t].item() == pytest.approx(error)


@given(rollouts(), st.integers(1, 3))
def test_more_padding_changes_nothing(rollout, num_columns):
    token_rewards, values, mask = rollout
    pad = torch.full((len(mask), num_columns), 7.0, dtype=torch.float64)
    wide = generalized_advantage_estimation(
        torch.cat([token_rewards, pad], 1),
        torch.cat([values, pad], 1),
        torch.cat([mask, pad < 0], 1),
        gamma=0.9,
        gae_lambda=0.95,
    )
    narrow = generalized_advantage_estimation(token_rewards, values, mask, gamma=0.9, gae_lambda=0.95)
    for left, right in zip(wide, narrow, strict=True):
        assert torch.equal(left[:, : right.shape[1]], right)
        assert not left[:, right.shape[1] :].any()


def test_garbage_after_the_stop_token_changes_nothing(assert_blind):
    token_rewards = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    values = torch.tensor([[1.0, -1.0, 2.0], [0.5, 3.0, 0.2]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for part in (0, 1):
        assert_blind(
            lambda r, v, part=part: generalized_advantage_estimation(r, v, mask, gamma=0.9, gae_lambda=0.95)[part],
            (token_rewards, mask),
            (values, mask),
        )


def test_advantages_and_returns_are_0_wherever_the_mask_is_false():
    ones, mask = torch.ones(1, 3), torch.tensor([[True, False, True]])
    for part in generalized_advantage_estimation(ones, ones, mask, gamma=1.0, gae_lambda=1.0):
        assert part[0, 1] == 0


def test_advantages_and_returns_are_detached_and_the_arguments_unchanged():
    token_rewards, values = torch.ones(1, 2), torch.ones(1, 2, requires_grad=True)
    mask = torch.tensor([[True, False]])
    advantages, returns = generalized_advantage_estimation(token_rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    assert torch.equal(token_rewards, torch.ones(1, 2))
    assert torch.equal(values, torch.ones(1, 2))
