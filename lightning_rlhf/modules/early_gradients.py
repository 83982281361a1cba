"""Gradients that are taken before the backward pass, so that what they were computed from is free by then."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["with_gradients_taken"]


def with_gradients_taken(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The same loss, whose graph has been walked and freed; its backward pass hands out the gradients.

    The next forward pass finds the memory of this one's activations free. In exchange the gradients are there earlier:
    worth it where they are small, as those of adapters. Wrappers that wait for gradients in the backward pass get them
    there; weights that are gathered during it (FSDP2), and losses that are scaled up for it, want the plain way.

    Args:
        loss: `()`.
        parameters: all that it depends on.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    taken: Tensor = _GradientsTaken.apply(loss.detach(), gradients, *trained)  # type: ignore[no-untyped-call]
    return taken


class _GradientsTaken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor | None, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if gradient is None else gradient * scale for gradient in gradients)
