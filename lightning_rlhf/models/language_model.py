"""A causal language model that projects to the vocabulary only what a loss reads."""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.adapters import output_layer
from lightning_rlhf.models.transformer_call import call_transformer

__all__ = ["LanguageModel", "LanguageModelOutput"]


class LanguageModelOutput(NamedTuple):
    """What a language model says at the kept positions, in row-major order."""

    logits: Tensor
    """`(N, V)`; `(0, V)` when nothing was to be projected."""
    hidden: Tensor
    """What the output layer was fed with: `(N, H)`, or `(B, T, H)` when nothing was to be projected."""


class LanguageModel(nn.Module):
    """A causal language model of transformers, with or without adapters.

    Args:
        model: the model; every call goes through its own `forward`, so that soft-capping, logit scales and the hooks of
            strategies stay in force.

    Raises:
        ModelError: the model has no output layer.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        if output_layer(model) is None:
            raise ModelError(f"a language model must have an output layer, got {type(model).__name__} without one.")
        self.model = model

    @property
    def _head(self) -> nn.Module:
        head = output_layer(self.model)
        assert head is not None  # by __init__
        return head

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that the output layer is fed with."""
        return int(cast(nn.Parameter, self._head.weight).shape[1])

    def forward(self, tokens: TokenBatch, keep: Tensor | None = None) -> LanguageModelOutput:
        """Logits and hidden states at the kept positions; nothing is shifted.

        Args:
            tokens: `(B, T)` rows, padded on either side or packed.
            keep: bool `(B, T)`, True at the N positions to project; None: no logits, hidden states everywhere.
        """
        captured: list[Tensor] = []

        def narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = args[0]
            captured.append(hidden if keep is None else hidden[keep])
            projected = hidden.flatten(0, 1)[:0] if keep is None else captured[0]
            return (projected, *args[1:])

        # a hook for the length of one call: at rest the model is untouched, and generation sees nothing of it
        handle = self._head.register_forward_pre_hook(narrow)
        try:
            logits = call_transformer(self.model, tokens).logits
        finally:
            handle.remove()
        if not captured:
            raise ModelError(
                f"{type(self.model).__name__} must call its output layer as a module, got a model that does not."
            )
        return LanguageModelOutput(logits, captured[0])
