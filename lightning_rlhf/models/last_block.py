"""The last block of a transformer, most of which only the positions that are read have to pass.

Behind it positions do not meet any more: those that nobody reads have to give it keys and values, and need neither
queries nor the feed-forward network.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_rlhf.models.dropout import evaluation_mode
from lightning_rlhf.models.memory_saving import is_sharded, recomputed_modules

__all__ = ["reading_keys_and_values_only", "reading_only"]

_LEAST_SAVING = 0.25
"""Of the positions: taking rows out and putting them back has its price."""
_NUM_TRIED, _TRIED = 32, 0.75
"""Tokens of the row that is tried, and where in it the position stands that is read."""
_SAME = 1e-2
"""Of the greatest result: products of fewer rows differ in their last digits, in half precision by more."""


class _LastBlock(NamedTuple):
    """What was found out about a model. Names, because modules may lead back to it, and it would never be freed."""

    block: str
    narrowable: tuple[str, ...]


_found: WeakKeyDictionary[nn.Module, _LastBlock] = WeakKeyDictionary()


@contextmanager
def reading_only(model: PreTrainedModel, keep: Tensor | None) -> Iterator[None]:
    """While the model is called once, its results hold at the kept positions alone, and a loss must read no others.

    Models whose activations are recomputed and those with sharded weights pass whole. Hooks on modules of the last
    block get the rows that their module gets.

    Args:
        model: a causal language model or a headless transformer.
        keep: bool `(B, T)`, True where the result of the call is read; None: everywhere.
    """
    modules = () if keep is None else _narrowable_modules(model)
    if keep is None or not modules:
        yield
        return
    places = keep.flatten().nonzero().squeeze(-1)
    pays = len(places) <= (1 - _LEAST_SAVING) * keep.numel()
    with _narrowed(modules if pays else (), places, keep.numel()):
        yield


@contextmanager
def reading_keys_and_values_only(model: PreTrainedModel, input_ids: Tensor) -> Iterator[None]:
    """While the model is called once, only its cache is right.

    Args:
        model: a causal language model or a headless transformer.
        input_ids: `(B, T)`, what it is called with.
    """
    with _narrowed(_narrowable_modules(model), input_ids.new_zeros(0), input_ids.numel()):
        yield


@contextmanager
def _narrowed(modules: tuple[nn.Module, ...], places: Tensor, num_places: int) -> Iterator[None]:
    """The modules are computed at some of the places that they are called with, and give 0 elsewhere."""
    if not len(places):
        places = places.new_zeros(1)  # not every kernel takes no rows
    with ExitStack() as stack:
        for module in modules:
            narrowing = _Narrowing(places, num_places)
            stack.callback(module.register_forward_pre_hook(narrowing.take).remove)
            stack.callback(module.register_forward_hook(narrowing.put_back).remove)
        yield


class _Narrowing:
    """What stands before and behind a module for the length of one call."""

    def __init__(self, places: Tensor, num_places: int) -> None:
        self._places = places
        self._num_places = num_places
        self._shape: torch.Size | None = None

    def take(self, module: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
        self._shape = args[0].shape[:-1]
        if self._shape.numel() != self._num_places:  # some cut long rows into several calls
            self._shape = None
            return None
        rows: Tensor = _Taken.apply(args[0].reshape(self._num_places, -1), self._places)  # type: ignore[no-untyped-call]
        return rows if args[0].dim() == 2 else rows[None]

    def put_back(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self._shape is None:
            return None
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
    """Those of the last block; tried at the first call that asks, with the weights in their places."""
    if model not in _found:
        blocks = [name for name, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)]
        # where it is asked for, models compute a loss of what their routers say of all positions
        if not blocks or getattr(model.config, "output_router_logits", False):
            _found[model] = _LastBlock("", ())
        elif _passes_whole(model.get_submodule(blocks[-1])):
            return ()
        else:
            _found[model] = _LastBlock(blocks[-1], _tried(model, blocks[-1]))
    block, names = _found[model]
    if not names or _passes_whole(model.get_submodule(block)):
        return ()
    return tuple(model.get_submodule(name) for name in names)


def _passes_whole(block: nn.Module) -> bool:
    """Whether it is computed once more in the backward pass, when nothing is narrowed any more, or gathers weights."""
    return bool(recomputed_modules(block)) or isinstance(block, FSDPModule) or is_sharded(block)


def _tried(model: PreTrainedModel, block: str) -> tuple[str, ...]:
    try:
        with evaluation_mode(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            modules = _Trial(model).narrowable_modules(model.get_submodule(block))
    except Exception:  # an architecture may refuse nan, or want other inputs
        return ()
    return tuple(name for name, module in model.named_modules() if module in modules)


class _Trial:
    """Finds out with one row which modules a position that is read needs at this position, and there alone.

    Elsewhere they get nan, which reaches all that depends on it, whatever the weights are, unless something selects:
    such as sparse attention, which in a short row selects everything. Nan at the position itself tells that apart:
    where it does not reach the result, the module only says what is selected.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        # without the ends of the model, into which others hook what makes noise or takes results out
        self._model = model.base_model
        embedding = cast(nn.Embedding, model.get_input_embeddings())
        length = min(_NUM_TRIED, getattr(model.config, "max_position_embeddings", None) or _NUM_TRIED)
        ids = torch.arange(length, device=model.device)
        self._embedded = embedding.weight.detach()[ids % len(embedding.weight)][None]
        self._keep = (ids == int(_TRIED * length))[None]

    def narrowable_modules(self, block: nn.Module) -> set[nn.Module]:
        """The outermost such modules of a block that hold matrices."""
        whole, candidates = self._called(block)
        modules = tuple(self._outermost(block, candidates))
        with _narrowed(modules, self._keep.flatten().nonzero().squeeze(-1), self._keep.numel()):
            narrow = self._result()
        same = float((narrow - whole).abs().max()) <= _SAME * float(whole.abs().max())
        return set(modules) if same else set()

    def _result(self) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # some of the other kernels give 0 to a query that is nan
            output = self._model(inputs_embeds=self._embedded, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden[self._keep]

    def _called(self, block: nn.Module) -> tuple[Tensor, set[nn.Module]]:
        """The result, and which modules with matrices were called once, with rows of all positions for rows of all."""
        calls: dict[nn.Module, list[bool]] = {}

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            fits = not kwargs and len(args) == 1 and self._is_rows(args[0]) and self._is_rows(output)
            calls.setdefault(module, []).append(fits)

        with ExitStack() as stack:
            for module in block.modules():
                if any(parameter.dim() > 1 for parameter in module.parameters()):
                    stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            result = self._result()
        return result, {module for module, fits in calls.items() if fits == [True]}

    def _is_rows(self, value: Any) -> bool:
        """Whether it is `(1, T, H)` or `(T, H)`."""
        length = self._keep.numel()
        return isinstance(value, Tensor) and value.shape[:-1] in ((1, length), (length,))

    def _outermost(self, parent: nn.Module, candidates: set[nn.Module]) -> Iterator[nn.Module]:
        for child in parent.children():
            if child in candidates and self._serves_itself(child):
                yield child
            else:
                yield from self._outermost(child, candidates)

    def _serves_itself(self, module: nn.Module) -> bool:
        return not self._reached(module, ~self._keep) and self._reached(module, self._keep)

    def _reached(self, module: nn.Module, positions: Tensor) -> bool:
        """Whether nan that a module gets at these positions reaches the result."""

        def blind(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
            return args[0].masked_fill(positions.reshape(*args[0].shape[:-1], 1), math.nan)

        handle = module.register_forward_pre_hook(blind)
        try:
            return not bool(self._result().isfinite().all())
        finally:
            handle.remove()
