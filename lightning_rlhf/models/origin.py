"""The origin of a model's weights, recorded so that a checkpoint can leave them out."""

from torch import nn
from transformers import PreTrainedModel

__all__ = ["mark_origin", "origin"]

_ORIGIN = "_lightning_rlhf_origin"


def mark_origin(model: PreTrainedModel, name: str | None) -> None:
    """Notes where a language model's weights come from, on the model and on its transformer.

    Args:
        model: as loaded; copies of it have the same origin.
        name: path, hub id or component that gives the same weights again; None: nothing does.
    """
    for part in (model, model.base_model):
        setattr(part, _ORIGIN, name)


def origin(model: nn.Module) -> str | None:
    """The path, hub id or component that gives the model's weights again."""
    name = getattr(model, _ORIGIN, None)
    return None if name is None else str(name)
