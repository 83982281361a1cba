"""Says when a run ends with weights that no validation has seen."""

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

__all__ = ["LastValidation"]


class LastValidation(Callback):
    """Tells of a run that validates, but not at its end, such as one that `max_steps` ends inside an epoch."""

    def __init__(self) -> None:
        self._begun = 0
        self._validated: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From where the run goes on."""
        self._begun, self._validated = trainer.global_step, None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the step."""
        if not trainer.sanity_checking:
            self._validated = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says so, unless the last weights were validated or there is nothing to validate."""
        step = trainer.global_step
        if trainer.interrupted or not trainer.enable_validation or step in (self._begun, self._validated):
            return
        last = "It has not validated at all" if self._validated is None else f"The last was after {self._validated}"
        rank_zero_info(
            f"this run ends after {step} steps without a validation. {last}: val/ says nothing of the weights at the "
            "end. `validate` with `--ckpt_path last` does; to validate within an epoch set trainer.val_check_interval."
        )
