import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional import masked_mean, masked_whiten
from lightning_rlhf.functional.masking import has_spread, masked_moments, mean_per_row, normalized_sum

X = torch.tensor([[1.0, 3.0, 50.0], [5.0, 70.0, 90.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])
NOTHING = torch.zeros(2, 3, dtype=torch.bool)


@st.composite
def masked_numbers(draw):
    shape = draw(st.sampled_from([(1,), (7,), (3, 4), (5, 1), (2, 3, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    mask = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    return x, mask


def slow_moments(x, mask):
    kept = [value for value, keep in zip(x.flatten().tolist(), mask.flatten().tolist(), strict=True) if keep]
    if not kept:
        return 0, 0.0, 0.0
    mean = math.fsum(kept) / len(kept)
    return len(kept), mean, math.fsum((value - mean) ** 2 for value in kept) / len(kept)


def test_masked_mean_by_hand():
    assert masked_mean(X, MASK).item() == 3.0


def test_masked_moments_by_hand():
    count, mean, variance = masked_moments(X, MASK)
    assert (count.item(), mean.item()) == (3, 3.0)
    assert variance.item() == pytest.approx(8 / 3)


def test_masked_whiten_by_hand():
    a = math.sqrt(1.5)
    expected = torch.tensor([[-a, 0.0, 0.0], [a, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(masked_whiten(X, MASK), expected)


def test_masked_whiten_takes_global_moments_and_does_not_add_the_mean_back():
    expected = torch.tensor([[-2.0, -1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(masked_whiten(X, MASK, mean=5.0, variance=4.0), expected)
    tensors = {"mean": torch.tensor(5.0), "variance": torch.tensor(4.0)}
    torch.testing.assert_close(masked_whiten(X, MASK, **tensors), expected)


def test_masked_whiten_takes_one_global_moment_alone():
    torch.testing.assert_close(masked_whiten(X, MASK, mean=5.0)[1, 0].item(), 0.0)
    torch.testing.assert_close(masked_whiten(X, MASK, variance=4.0)[1, 0].item(), 1.0)


def test_mean_per_row_by_hand():
    assert mean_per_row(X, MASK).tolist() == [2.0, 5.0]
    assert mean_per_row(X, NOTHING).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("denominator", [4, torch.tensor(4), torch.tensor(4, dtype=torch.int32)], ids=str)
def test_normalized_sum_divides_by_the_given_count(denominator):
    assert normalized_sum(X, MASK, denominator).item() == 9 / 4


@given(masked_numbers())
def test_moments_and_whitening_agree_with_a_slow_loop(numbers):
    x, mask = numbers
    count, mean, variance = slow_moments(x, mask)
    moments = masked_moments(x, mask)
    assert moments[0].item() == count
    assert moments[1].item() == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert moments[2].item() == pytest.approx(variance, rel=1e-12, abs=1e-20)
    assert masked_mean(x, mask).item() == moments[1].item()
    whitened = masked_whiten(x, mask)
    for got, value, keep in zip(
        whitened.flatten().tolist(), x.flatten().tolist(), mask.flatten().tolist(), strict=True
    ):
        wanted = (value - mean) / math.sqrt(variance) if keep and count > 1 else 0.0
        assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(masked_numbers(), st.floats(0.1, 10), st.floats(-5, 5))
def test_whitening_forgets_scale_and_shift_and_leaves_mean_0_and_variance_1(numbers, scale, shift):
    x, mask = numbers
    whitened = masked_whiten(x, mask)
    if mask.sum() < 2:
        assert not whitened.any()
        return
    _, mean, variance = slow_moments(whitened, mask)
    assert mean == pytest.approx(0, abs=1e-9)
    assert variance == pytest.approx(1)
    # a small spread on a large shift loses digits
    torch.testing.assert_close(masked_whiten(x * scale + shift, mask), whitened, rtol=1e-6, atol=1e-6)


def test_garbage_under_the_mask_changes_nothing(assert_blind):
    assert_blind(lambda x: masked_mean(x, MASK), (X, MASK))
    assert_blind(lambda x: masked_whiten(x, MASK), (X, MASK))
    assert_blind(lambda x: masked_moments(x, MASK)[2], (X, MASK))
    assert_blind(lambda x: mean_per_row(x, MASK), (X, MASK))
    assert_blind(lambda x: normalized_sum(x, NOTHING, 4), (X, NOTHING))


@pytest.mark.parametrize("function", [masked_mean, masked_whiten, mean_per_row])
def test_an_empty_mask_gives_0_with_zero_gradient(function):
    x = X.clone().requires_grad_()
    value = function(x, NOTHING)
    value.sum().backward()
    assert not value.any()
    assert not x.grad.any()


@pytest.mark.parametrize("denominator", [None, 0, 4, torch.tensor(0), torch.tensor(4)], ids=str)
def test_a_sum_over_nothing_is_0_whatever_the_count(denominator):
    x = X.clone().requires_grad_()
    value = normalized_sum(x, NOTHING, denominator)
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()


@pytest.mark.parametrize("number", [0.0, 0.1, -0.7, 100.1, 1e-6, 3e7])
@pytest.mark.parametrize("count", [1, 3, 1000, 99_991])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_numbers_whiten_to_0_and_not_to_their_rounding(number, count, dtype):
    x = torch.full((count,), number, dtype=dtype)
    assert not masked_whiten(x, torch.ones(count, dtype=torch.bool)).any()


def test_equal_numbers_have_a_whitening_with_zero_gradient():
    x = torch.full((4,), 0.5, requires_grad=True)
    masked_whiten(x, torch.ones(4, dtype=torch.bool)).sum().backward()
    assert not x.grad.any()


def test_numbers_that_differ_a_little_still_have_a_spread():
    assert has_spread(torch.tensor(1.0), torch.tensor(1e-10))
    assert has_spread(torch.tensor(0.0), torch.tensor(1e-30))


def test_a_nan_that_counts_is_not_hidden():
    assert masked_whiten(X.masked_fill(MASK, float("nan")), MASK)[MASK].isnan().all()
    assert masked_mean(X.masked_fill(MASK, float("nan")), MASK).isnan()


def test_whitened_numbers_have_the_dtype_of_the_argument():
    assert masked_whiten(X.bfloat16(), MASK).dtype == torch.bfloat16


def test_gradients():
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_mean(x, MASK), x)
    assert torch.autograd.gradcheck(lambda x: mean_per_row(x, MASK), x)
    assert torch.autograd.gradcheck(lambda x: masked_whiten(x, MASK), x)
    assert torch.autograd.gradcheck(lambda x: masked_moments(x, MASK)[2], x)
    assert torch.autograd.gradcheck(lambda x: normalized_sum(x, MASK, 7), x)
