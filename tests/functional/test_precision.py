"""What holds for every formula: precision, signatures, and shapes that are checked."""

import inspect

import jaxtyping
import pytest
import torch

from lightning_rlhf import functional as rlhf

MASK = torch.tensor([[True, True, True], [True, True, False]])
RANKS = torch.tensor([[0, 1, 2], [1, 0, 0]])
IDS = torch.tensor([[0, 3, 1], [2, 2, 0]])
X = torch.tensor([[0.3, -1.2, 0.7], [1.4, 0.1, -0.6]], dtype=torch.float64)
Y = torch.tensor([[0.1, -0.9, 1.1], [0.8, 0.2, 0.4]], dtype=torch.float64)
Z = torch.tensor([[-0.5, 0.6, 0.2], [0.9, -1.0, 0.3]], dtype=torch.float64)
LOGITS = torch.linspace(-2, 2, 2 * 3 * 4, dtype=torch.float64).sin().reshape(2, 3, 4)

# every function of floating-point tensors: how to call it at a dtype
CALLS = {
    "approx_kl": lambda d: rlhf.approx_kl(X.to(d), Y.to(d), MASK),
    "centering_penalty": lambda d: rlhf.centering_penalty(X.to(d), RANKS, MASK),
    "clip_fraction": lambda d: rlhf.clip_fraction(X.to(d), Y.to(d), MASK, clip_range=0.2),
    "clipped_policy_loss": lambda d: rlhf.clipped_policy_loss(X.to(d), Y.to(d), Z.to(d), MASK, clip_range=0.2),
    "clipped_value_loss": lambda d: rlhf.clipped_value_loss(X.to(d), Y.to(d), Z.to(d), MASK, value_clip_range=0.2),
    "explained_variance": lambda d: rlhf.explained_variance(X.to(d), Y.to(d), MASK),
    "generalized_advantage_estimation": lambda d: torch.stack(
        rlhf.generalized_advantage_estimation(X.to(d), Y.to(d), MASK, gamma=0.9, gae_lambda=0.95)
    ),
    "kl_k1": lambda d: rlhf.kl_k1(X.to(d), Y.to(d)),
    "kl_k2": lambda d: rlhf.kl_k2(X.to(d), Y.to(d)),
    "kl_k3": lambda d: rlhf.kl_k3(X.to(d), Y.to(d)),
    "masked_mean": lambda d: rlhf.masked_mean(X.to(d), MASK),
    "masked_whiten": lambda d: rlhf.masked_whiten(X.to(d), MASK),
    "next_token_loss": lambda d: rlhf.next_token_loss(LOGITS.to(d), IDS),
    "pairwise_ranking_loss": lambda d: rlhf.pairwise_ranking_loss(X.to(d), RANKS, MASK),
    "plackett_luce_loss": lambda d: rlhf.plackett_luce_loss(X.to(d), RANKS, MASK),
    "ranking_accuracy": lambda d: rlhf.ranking_accuracy(X.to(d), RANKS, MASK),
    "regression_loss": lambda d: rlhf.regression_loss(X.to(d), Y.to(d), MASK),
    "shape_rewards": lambda d: rlhf.shape_rewards(X[:, 0].to(d), Y.to(d), MASK, kl_coef=0.1),
    "token_cross_entropy": lambda d: rlhf.token_cross_entropy(LOGITS[0].to(d), IDS[0]),
    "token_entropy": lambda d: rlhf.token_entropy(LOGITS.to(d), temperature=0.7),
    "token_logprobs": lambda d: rlhf.token_logprobs(LOGITS.to(d), IDS, temperature=0.7),
}
OF_INTEGERS = {"completion_mask", "position_ids"}
FUNCTIONS = [name for name in rlhf.__all__ if callable(getattr(rlhf, name))]


def test_every_function_stands_in_the_table():
    assert set(FUNCTIONS) - OF_INTEGERS == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_float64_stays_float64(name):
    assert CALLS[name](torch.float64).dtype == torch.float64


@pytest.mark.parametrize("name", CALLS)
def test_float32_agrees_with_float64(name):
    value = CALLS[name](torch.float32)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), CALLS[name](torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_half_precision_is_computed_in_float32(name, dtype, monkeypatch):
    value = CALLS[name](dtype)
    for tensor in ("X", "Y", "Z", "LOGITS"):  # the rounding of the inputs is the caller's
        monkeypatch.setitem(globals(), tensor, globals()[tensor].to(dtype).double())
    expected = CALLS[name](torch.float32)
    if name == "masked_whiten":  # whose result is like its argument
        expected = expected.to(dtype)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_tensor_is_keyword_only(name):
    for parameter in inspect.signature(getattr(rlhf, name)).parameters.values():
        is_tensor = "Tensor" in str(parameter.annotation) and parameter.default is parameter.empty
        if parameter.name not in ("stop_ids", "kl_coef"):
            assert (parameter.kind is parameter.POSITIONAL_OR_KEYWORD) == is_tensor, parameter


def test_shapes_are_checked_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        rlhf.masked_mean(torch.ones(2, 3), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(jaxtyping.TypeCheckError):
        rlhf.masked_mean(torch.ones(3), torch.ones(3))
