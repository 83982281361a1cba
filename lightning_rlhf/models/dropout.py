"""Switching dropout off, for good or for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["disable_dropout", "evaluation_mode"]

_RANDOM = ("drop", "jitter")


def disable_dropout(model: nn.Module) -> None:
    """Sets every dropout rate of a model to zero, whichever mode it is in later.

    Reward model, policy, value model and reference must be the same function while they sample, score and learn; the
    mode of a module is no safe place for that, since trainers switch it. Router noise of expert mixtures goes as well.

    Args:
        model: changed in place: dropout modules, the rates that attention layers hold as numbers, and the config.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _zero_rates(module)
        config = getattr(module, "config", None)
        if config is not None:
            _zero_rates(config)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside: gradient checkpointing would switch the cache off. Afterwards each part is as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _zero_rates(holder: object) -> None:
    for name, value in vars(holder).items():
        if isinstance(value, float) and any(word in name for word in _RANDOM):
            setattr(holder, name, 0.0)
