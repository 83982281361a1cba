"""What a model does to save memory, where others have to know: activations that are recomputed, weights in shards."""

from torch import nn
from torch.distributed.tensor import DTensor

__all__ = ["is_sharded", "recomputed_modules"]


def is_sharded(module: nn.Module) -> bool:
    """Whether other processes hold parts of its weights at this moment.

    Args:
        module: a model or a part of one.
    """
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def recomputed_modules(module: nn.Module) -> list[nn.Module]:
    """The parts of a module in which gradient checkpointing was enabled.

    Args:
        module: a model or a part of one.
    """
    return [part for part in module.modules() if "_gradient_checkpointing_func" in vars(part)]
