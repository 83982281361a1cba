"""The hook that PPO adds to those of Lightning."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_rlhf.rollout import CollectedRollout

__all__ = ["RolloutCallback"]


class RolloutCallback(Callback):
    """A callback that sees every rollout of PPO before anything is learned from it."""

    def on_rollout_collected(
        self, trainer: L.Trainer, pl_module: Any, collected: CollectedRollout, iteration: int
    ) -> None:
        """Called on every rank with its own responses.

        An iteration that a run is resumed in the middle of is not seen again: what is to be known of it belongs into
        the callback's `state_dict`.

        Args:
            trainer: that runs.
            pl_module: the PPOModule, whose weights are those that sampled.
            collected: the rollout, its statistics over all ranks, and this rank's responses; to be left as it is.
            iteration: of the run, from 0.
        """
