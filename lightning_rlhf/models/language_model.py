"""A causal language model that projects to the vocabulary only what a loss reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.batches import SharedPrefixBatch, TokenBatch
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.adapters import output_layer
from lightning_rlhf.models.row_chunks import RowChunk, in_row_order, row_chunks
from lightning_rlhf.models.shared_prefix import call_behind, prefix_cache
from lightning_rlhf.models.transformer_call import call_transformer

__all__ = ["LanguageModel", "LanguageModelOutput"]


class LanguageModelOutput(NamedTuple):
    """What a language model says at the kept positions, in row-major order."""

    logits: Tensor
    """`(N, V)`; `(0, V)` when nothing was to be projected."""
    hidden: Tensor
    """What the output layer is fed with: `(N, H)`, or `(B, T, H)` when no positions were given."""


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
        self.divides_rows = True
        """Whether rows of unequal length may pass in several calls; hooks may need the batch as it is."""

    @property
    def _head(self) -> nn.Module:
        head = output_layer(self.model)
        assert head is not None  # by __init__
        return head

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that the output layer is fed with."""
        return int(cast(nn.Parameter, self._head.weight).shape[1])

    def forward(self, tokens: TokenBatch, keep: Tensor | None = None, *, project: bool = True) -> LanguageModelOutput:
        """Logits and hidden states at the kept positions; nothing is shifted.

        Rows of very unequal length pass through the transformer in several calls, so that little of it is padding, and
        what rows share passes once; the output layer gets all kept positions at once.

        Args:
            tokens: `(B, T)` rows, padded on either side or packed.
            keep: bool `(B, T)`, True at the N positions to read; None: no logits, hidden states everywhere.
            project: False: no logits.
        """
        states: list[Tensor] = []
        if keep is None:

            def read_all(hidden: Tensor) -> Tensor:
                states.append(hidden)
                return hidden.flatten(0, 1)[:0]

            return LanguageModelOutput(self._call(tokens, None, read_all), states[0])
        chunks = row_chunks(self.model, tokens) if self.divides_rows else [RowChunk(tokens)]
        kept = [chunk.of(keep) for chunk in chunks]

        def read(hidden: Tensor) -> Tensor:
            states.append(hidden[kept[len(states)]])
            if len(states) < len(chunks):
                return states[-1][:0]
            states[:] = [in_row_order(states, chunks, keep)]
            return states[0] if project else states[0][:0]

        logits = [self._call(chunk.tokens, here, read) for chunk, here in zip(chunks, kept, strict=True)][-1]
        return LanguageModelOutput(logits, states[0])

    def _call(
        self, tokens: TokenBatch | SharedPrefixBatch, keep: Tensor | None, narrow: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The model's logits of what `narrow` makes of the hidden states `(B, T, H)`; no logits of prefixes."""
        if isinstance(tokens, SharedPrefixBatch):
            with self._narrowing(lambda hidden: hidden.flatten(0, 1)[:0]):
                cache = prefix_cache(self.model, tokens)
            with self._narrowing(narrow):
                logits: Tensor = call_behind(self.model, tokens, cache, keep).logits
        else:
            with self._narrowing(narrow):
                logits = call_transformer(self.model, tokens, keep).logits
        return logits

    @contextmanager
    def _narrowing(self, narrow: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While the model is called once, its output layer gets what `narrow` makes of its input."""
        is_called = False

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal is_called
            is_called = True
            return (narrow(args[0]), *args[1:])

        # a hook for the length of one call: at rest the model is untouched, and generation sees nothing of it
        handle = self._head.register_forward_pre_hook(before)
        try:
            yield
        finally:
            handle.remove()
        if not is_called:
            raise ModelError(
                f"{type(self.model).__name__} must call its output layer as a module, got a model that does not."
            )
