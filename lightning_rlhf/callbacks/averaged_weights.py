"""The weights that a callback of Lightning averages (EMA, SWA), which become the model's when training ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn

__all__ = ["averaged_weights", "take_averaged_weights"]


@contextmanager
def averaged_weights(trainer: L.Trainer, module: nn.Module, *, due: bool = True) -> Iterator[bool]:
    """Inside, the module has the weights that it will have when training has ended, if a callback averages any.

    What is changed on them inside stays with the average; afterwards the module has its own again.

    Args:
        trainer: while it trains; its callbacks are looked through.
        module: in training.
        due: those alone that Lightning would take if training ended with this epoch.

    Yields:
        Whether there are such weights.
    """
    pairs = [pair for average in _averages(trainer, due) for pair in zip(average, _weights(module), strict=False)]
    _swap(pairs)
    try:
        yield bool(pairs)
    finally:
        _swap(pairs)


@torch.no_grad()
def take_averaged_weights(trainer: L.Trainer, module: nn.Module) -> None:
    """Gives the module its averaged weights: a run that is resumed at its end passes over the hook that does so.

    Args:
        trainer: at the end of a call that had nothing left to train.
        module: of the trainer; its own weights are lost.
    """
    for average in _averages(trainer, due=True):
        for averaged, own in zip(average, _weights(module), strict=False):
            own.copy_(averaged)


def _averages(trainer: L.Trainer, due: bool) -> Iterator[list[Tensor]]:
    """The averages that Lightning puts in the place of trained weights, in their order: parameters, perhaps buffers."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        average: Any = getattr(callback, "_average_model", None)
        if isinstance(callback, WeightAveraging) and average is not None:
            yield _weights(average.module)
        if isinstance(callback, StochasticWeightAveraging) and average is not None:
            taken = not due or _is_due(trainer, callback)
            yield list(average.parameters()) if taken else []


def _is_due(trainer: L.Trainer, callback: StochasticWeightAveraging) -> bool:
    """Whether Lightning takes the average at this epoch's end: of a run that stops before its last it does not."""
    has_begun = bool(callback.n_averaged) or bool(callback._init_n_averaged)
    # an epoch is counted before the hooks of its end are called
    progress: Any = trainer.fit_loop.epoch_progress.current
    is_last = progress.processed - 1 >= callback.swa_end
    return has_begun and (callback._max_epochs == -1 or is_last)


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def _swap(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for averaged, own in pairs:
        kept = own.to(averaged.device, copy=True)
        own.copy_(averaged)
        averaged.copy_(kept)
