"""The machine's own rate: fp32 matrix products of 1024 x 1024, as PyTorch does them. No contestant, a yardstick."""

from typing import Any

import torch

_SIZE = 1024
_PRODUCTS = 20


def run(spec: dict[str, Any], pace: Any) -> None:
    left, right = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    out = torch.empty(_SIZE, _SIZE)
    pace.ready()
    while pace.wait():
        for _ in range(_PRODUCTS):
            torch.mm(left, right, out=out)
        pace.done(flop=2 * _SIZE**3 * _PRODUCTS)
