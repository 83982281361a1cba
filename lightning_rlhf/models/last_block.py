"""The last block of a transformer, most of which only the positions that are read have to pass.

Behind it positions do not meet any more: those that nobody reads have to give it keys and values, and need neither
queries nor the feed-forward network.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_rlhf.models.dropout import evaluation_mode

__all__ = ["reading_only"]

_LEAST_SAVING = 0.25
"""Of the positions: taking rows out and putting them back has its price."""
_NUM_TRIED = 5
_SAME, _SAME_IN_HALF_PRECISION = 1e-4, 1e-2
"""Of the greatest result: a product of fewer rows may differ in its last digits."""

_found: "WeakKeyDictionary[nn.Module, _LastBlock | None]" = WeakKeyDictionary()


@contextmanager
def reading_only(model: PreTrainedModel, keep: Tensor | None) -> Iterator[None]:
    """While the model is called once, its results hold at the kept positions alone; so do their gradients.

    Models whose activations are recomputed and those with sharded weights pass whole.

    Args:
        model: a causal language model or a headless transformer.
        keep: bool `(B, T)`, True where the result of the call is read; None: everywhere.
    """
    if keep is None:
        yield
        return
    places = keep.flatten().nonzero().squeeze(-1)
    pays = len(places) <= (1 - _LEAST_SAVING) * keep.numel()
    with _narrowed(_narrowable_modules(model) if pays else (), places, keep.numel()):
        yield


@contextmanager
def _narrowed(modules: tuple[nn.Module, ...], places: Tensor, num_places: int) -> Iterator[None]:
    """The modules are computed at some of the places that they are called with, and give 0 elsewhere."""
    with ExitStack() as stack:
        for module in modules:
            narrowing = _Narrowing(places if len(places) else places.new_zeros(1), num_places)  # no kernel gets no rows
            stack.callback(module.register_forward_pre_hook(narrowing.take).remove)
            stack.callback(module.register_forward_hook(narrowing.put_back).remove)
        yield


class _Narrowing:
    """What stands before and behind a module for the length of one call."""

    def __init__(self, places: Tensor, num_places: int) -> None:
        self._places = places
        self._num_places = num_places
        self._shape = torch.Size()

    def take(self, module: nn.Module, args: tuple[Tensor]) -> Tensor:
        (whole,) = args
        self._shape = whole.shape[:-1]
        rows: Tensor = _Taken.apply(whole.reshape(self._num_places, -1), self._places)  # type: ignore[no-untyped-call]
        return rows if whole.dim() == 2 else rows[None]

    def put_back(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        rows = output.reshape(len(self._places), -1)
        whole: Tensor = _PutBack.apply(rows, self._places, self._num_places)  # type: ignore[no-untyped-call]
        return whole.view(*self._shape, -1)


class _Taken(torch.autograd.Function):
    """Some rows, each once, so that the way back puts them in their places; torch's own adds one after the other."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.num_places = len(whole)
        return whole.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _put(gradient, ctx.saved_tensors[0], ctx.num_places), None


class _PutBack(torch.autograd.Function):
    """Rows in their places among rows of zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, num_places: int) -> Tensor:
        ctx.save_for_backward(places)
        return _put(rows, places, num_places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


def _put(rows: Tensor, places: Tensor, num_places: int) -> Tensor:
    return rows.new_zeros(num_places, rows.shape[1]).index_copy_(0, places, rows)


def _narrowable_modules(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    if model not in _found:
        blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        _found[model] = _LastBlock(blocks[-1]) if blocks else None
    block = _found[model]
    return () if block is None else block.narrowable_modules(model)


class _LastBlock:
    """A block with what was found out about it."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._narrowable: tuple[nn.Module, ...] | None = None

    def narrowable_modules(self, model: PreTrainedModel) -> tuple[nn.Module, ...]:
        """What of it may be narrowed: tried at the first call that asks, with the weights in their places."""
        is_recomputed = "_gradient_checkpointing_func" in vars(self._block)
        if is_recomputed or any(isinstance(parameter, DTensor) for parameter in self._block.parameters()):
            return ()
        if self._narrowable is None:
            try:
                with evaluation_mode(model), torch.no_grad():
                    self._narrowable = _Trial(model).narrowable_modules(self._block)
            except Exception:  # an architecture may refuse nan, or want other inputs: it passes whole
                self._narrowable = ()
        return self._narrowable


class _Trial:
    """Finds out with a row of a few tokens which modules one position needs at this position alone.

    To the others it gives nan, which spreads to all that depends on them, whatever the weights are.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        # without the ends of the model, into which others hook what makes noise or takes results out
        self._model = model.base_model
        embedding = cast(nn.Embedding, model.get_input_embeddings())
        self._embedded = embedding.weight[:_NUM_TRIED].detach()[None]
        self._keep = torch.arange(_NUM_TRIED, device=model.device)[None] == _NUM_TRIED // 2

    def narrowable_modules(self, block: nn.Module) -> tuple[nn.Module, ...]:
        """The outermost such modules of a block that hold matrices."""
        whole, candidates = self._called(block)
        modules = tuple(self._outermost(block, candidates))
        with _narrowed(modules, self._keep.flatten().nonzero().squeeze(-1), _NUM_TRIED):
            narrow = self._result()
        tolerance = _SAME if whole.dtype == torch.float32 else _SAME_IN_HALF_PRECISION
        same = float((narrow - whole).abs().max()) <= tolerance * float(whole.abs().max())
        return modules if same else ()

    def _result(self) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # some of the other kernels give 0 to a query that is nan
            output = self._model(inputs_embeds=self._embedded, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden[self._keep]

    def _called(self, block: nn.Module) -> tuple[Tensor, set[nn.Module]]:
        """The result, and which modules with matrices were called once, with rows of all positions for rows of all."""
        calls: dict[nn.Module, list[bool]] = {}

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            fits = not kwargs and len(args) == 1 and _is_rows(args[0]) and _is_rows(output)
            calls.setdefault(module, []).append(fits)

        with ExitStack() as stack:
            for module in block.modules():
                if any(parameter.dim() > 1 for parameter in module.parameters()):
                    stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            result = self._result()
        return result, {module for module, fits in calls.items() if fits == [True]}

    def _outermost(self, parent: nn.Module, candidates: set[nn.Module]) -> Iterator[nn.Module]:
        for child in parent.children():
            if child in candidates and self._is_read_in_place(child):
                yield child
            else:
                yield from self._outermost(child, candidates)

    def _is_read_in_place(self, module: nn.Module) -> bool:
        def blind(module: nn.Module, args: tuple[Tensor]) -> Tensor:
            (whole,) = args
            return whole.masked_fill(~self._keep.reshape(*whole.shape[:-1], 1), math.nan)

        handle = module.register_forward_pre_hook(blind)
        try:
            return bool(self._result().isfinite().all())
        finally:
            handle.remove()


def _is_rows(value: Any) -> bool:
    """Whether it is `(1, T, H)` or `(T, H)`."""
    return isinstance(value, Tensor) and value.shape[:-1] in ((1, _NUM_TRIED), (_NUM_TRIED,))
