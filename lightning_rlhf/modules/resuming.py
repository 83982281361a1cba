"""What Lightning's checkpoints need so that a resumed run is the run that was not cut off."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

__all__ = [
    "accumulated_gradients",
    "mend_progress",
    "random_state",
    "restore_gradients",
    "restore_random_state",
]


def mend_progress(checkpoint: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Has a resumed run do the whole of a validation that was due or running when the checkpoint was written.

    Lightning leaves out one that was due, at the end of an epoch with all else that is done there, and of one that was
    running it does the rest, whose metrics are then of the rest alone.

    Args:
        checkpoint: about to be written; its counters are changed.
        trainer: that writes it.
    """
    if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.fit_loop._data_fetcher is None:
        return
    loop = trainer.fit_loop.epoch_loop
    batches: Any = loop.batch_progress
    evaluation = loop.val_loop.batch_progress
    saved = checkpoint["loops"]["fit_loop"]
    saved_batches, saved_evaluation = saved["epoch_loop.batch_progress"], saved["epoch_loop.val_loop.batch_progress"]
    in_step = trainer.training and batches.current.completed == batches.current.processed - 1
    is_over = evaluation.is_last_batch and evaluation.current.completed == evaluation.current.ready
    if in_step and loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        for counters in (saved_batches["total"], saved_batches["current"]):
            counters["completed"] += 1  # to Lightning the step is over when its validation begins
    elif not trainer.validating or is_over:
        return
    done = saved_evaluation["total"]["completed"]
    saved_evaluation["current"] = dict.fromkeys(saved_evaluation["current"], 0)
    # one more begun than done is how Lightning knows that a validation has to be gone through
    saved_evaluation["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
    saved_evaluation["is_last_batch"] = False


def accumulated_gradients(trainer: L.Trainer, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor] | None:
    """The gradients of the batches since the last optimizer step, where there are any; else None."""
    if trainer.state.fn != TrainerFn.FITTING or not trainer.fit_loop._should_accumulate():
        return None
    return {name: weight.grad.detach() for name, weight in named if weight.grad is not None}


def restore_gradients(gradients: Mapping[str, Tensor], named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Goes on accumulating from them."""
    for name, weight in named:
        if name in gradients:
            weight.grad = gradients[name].to(weight.device, copy=True)


def random_state() -> dict[str, Any]:
    """Every generator's state, in types that `weights_only` loading admits."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Sets every generator to a state that `random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
