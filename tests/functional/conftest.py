"""What several tests of the formulas share: garbage under a mask."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Differentiable = Callable[..., Tensor]


@pytest.fixture(params=[0.0, 1e9, float("inf"), float("-inf"), float("nan")], ids=str)
def garbage(request: pytest.FixtureRequest) -> float:
    return request.param


def _value_and_gradients(function: Differentiable, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    if not value.requires_grad:
        return [value]
    weights = torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape)
    with torch.autograd.set_detect_anomaly(True):  # a nan on the way fails too: whoever looks for one must find none
        gradients = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
    return [value, *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True))]


@pytest.fixture
def assert_blind(garbage: float) -> Callable[..., None]:
    """Asserts that garbage outside the masks changes neither the value of a function nor a gradient.

    Takes the function and, for each of its tensors, a pair of the tensor and the mask of the entries that count.
    """

    def check(function: Differentiable, *inputs: tuple[Tensor, Tensor]) -> None:
        clean = [x for x, _ in inputs]
        expected = _value_and_gradients(function, clean)
        dirty = [x.masked_fill(~mask, garbage) for x, mask in inputs]
        # one at a time as well: garbage in two places can cancel
        for candidates in [dirty, *([*clean[:i], dirty[i], *clean[i + 1 :]] for i in range(len(clean)))]:
            actual = _value_and_gradients(function, candidates)
            for left, right in zip(actual, expected, strict=True):
                torch.testing.assert_close(left, right, rtol=0, atol=0)
        for (_, mask), gradient in zip(inputs, expected[1:], strict=False):
            assert not gradient[~mask].any(), "an entry outside the mask has a gradient"

    return check
