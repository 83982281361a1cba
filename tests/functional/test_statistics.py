import math
import statistics

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_rlhf.functional import explained_variance

VALUES = torch.tensor([[0.1, 0.9, -0.4], [1.2, 0.0, 0.6]], dtype=torch.float64)
RETURNS = torch.tensor([[0.5, 1.5, -0.9], [0.4, 0.7, 0.1]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, False, False]])
NOTHING = torch.zeros(2, 3, dtype=torch.bool)


def test_explained_variance_by_hand():
    values, returns = torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 2.0, 5.0, 7.0])
    mask = torch.tensor([True, True, True, False])
    # the errors 0, 0, 2 have variance 8/9, the returns 1, 2, 5 have 26/9
    assert explained_variance(values, returns, mask).item() == pytest.approx(1 - 8 / 26)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.booleans()), min_size=1, max_size=8))
def test_explained_variance_agrees_with_a_slow_loop(rows):
    kept = [(value, target) for value, target, keep in rows if keep]
    spread = statistics.pvariance([target for _, target in kept]) if kept else 0.0
    assume(spread == 0 or spread > 1e-6)  # in between, rounding decides
    expected = 1 - statistics.pvariance([target - value for value, target in kept]) / spread if spread else 0.0
    values, returns = (torch.tensor(column, dtype=torch.float64) for column in list(zip(*rows, strict=True))[:2])
    mask = torch.tensor([keep for *_, keep in rows])
    assert explained_variance(values, returns, mask).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_perfect_values_explain_everything_and_constant_ones_nothing():
    assert explained_variance(RETURNS, RETURNS, MASK).item() == pytest.approx(1)
    assert explained_variance(RETURNS + 5, RETURNS, MASK).item() == pytest.approx(1)
    assert explained_variance(torch.full_like(RETURNS, 3.0), RETURNS, MASK).item() == pytest.approx(0)
    assert explained_variance(-RETURNS, RETURNS, MASK).item() == pytest.approx(-3)


@pytest.mark.parametrize("number", [0.0, 0.1, 100.1])
def test_returns_that_do_not_vary_give_0(number):
    returns = torch.full((999,), number)
    assert explained_variance(torch.linspace(0, 1, 999), returns, torch.ones(999, dtype=torch.bool)).item() == 0
    assert explained_variance(VALUES, RETURNS, NOTHING).item() == 0


def test_a_nan_that_counts_is_not_hidden():
    assert math.isnan(explained_variance(VALUES, RETURNS.masked_fill(MASK, float("nan")), MASK).item())


def test_garbage_under_the_mask_changes_nothing(assert_blind):
    assert_blind(lambda v, r: explained_variance(v, r, MASK), (VALUES, MASK), (RETURNS, MASK))
