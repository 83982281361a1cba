"""State that a checkpoint restores only when training goes on."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rlhf.checkpoints.optimizer_options import Options, configured_options, put_in_force, saved_options
from lightning_rlhf.modules.metrics import WindowLoss
from lightning_rlhf.modules.resuming import restore_gradients, restore_random_state

__all__ = ["ResumedState"]


class ResumedState:
    """Random states, an accumulation window and optimizer options, between a checkpoint's loading and the first step.

    Lightning restores what it knows of after `on_load_checkpoint`; what is put in force here comes last.
    """

    def __init__(self) -> None:
        self.configured_options: list[Options] = []
        """Options of this run's optimizers as its arguments say."""
        self._saved: dict[str, Any] = {}
        self._saved_options: list[Options] = []

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Keeps what a checkpoint holds."""
        self._saved = dict(checkpoint.get("lightning_rlhf", {}))
        self._saved_options = saved_options(checkpoint)

    def keep_configured(self, trainer: L.Trainer) -> None:
        """Keeps the optimizers' options before Lightning restores those of another run."""
        self.configured_options = [configured_options(optimizer) for optimizer in trainer.optimizers]

    def put_in_force(self, module: L.LightningModule, window_loss: WindowLoss) -> None:
        """Restores, once, what was kept.

        Args:
            module: whose training starts, its loaders made and no batch loaded yet.
            window_loss: of its accumulation window.
        """
        saved, self._saved = self._saved, {}
        options, self._saved_options = self._saved_options, []
        trainer = module.trainer
        schedulers = {id(config.scheduler.optimizer): config.scheduler for config in trainer.lr_scheduler_configs}
        for optimizer, before, now in zip(trainer.optimizers, options, self.configured_options, strict=False):
            put_in_force(optimizer, schedulers.get(id(optimizer)), before, now)
        states = saved.get("random_states")
        if states is not None and len(states) == trainer.world_size:
            restore_random_state(states[trainer.global_rank])
        if (window := saved.get("window")) is not None:
            _restore_window(window, module, window_loss)


def _restore_window(window: Mapping[str, Any], module: L.LightningModule, window_loss: WindowLoss) -> None:
    window_loss.total.copy_(window["loss"])
    if window["gradients"] is None or module.trainer.world_size > 1:
        rank_zero_warn(
            "the checkpoint was written in the middle of an accumulation window of several processes, whose "
            "gradients it does not hold: the first step is made of the rest of the window alone. To resume "
            "exactly, use a checkpoint of a step's end, as checkpoints/last.ckpt is."
        )
        return
    restore_gradients(window["gradients"], module.named_parameters())
