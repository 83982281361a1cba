"""The config of a run, written into its root once it is sure that the run goes there."""

import sys
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from lightning_rlhf.checkpoints.run_files import CONFIG_FILE
from lightning_rlhf.cli.config_differences import config_differences
from lightning_rlhf.cli.parser import header
from lightning_rlhf.cli.resumed_config import CONFIG_IN_CHECKPOINT
from lightning_rlhf.files import written_beside
from lightning_rlhf.terminal import escaped

__all__ = ["ConfigFile"]

_NOT_SAVED = ("config", "overwrite")  # they belong to one call: a saved `overwrite` would remove a run by itself


class ConfigFile(SaveConfigCallback):
    """Writes the run's config into its root, as often as a run begins there.

    Args:
        parser: parser of the subcommand.
        config: the parsed config.
        config_filename: name of the file.
        resumes: the root holds the earlier part of this run, whose config stays until the run has gone on by a step: a
            resume that is refused leaves the run as it was. An evaluation's waits until it is done.
        **kwargs: as for the base class.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Any,
        config_filename: str = CONFIG_FILE,
        resumes: bool = False,
        given: Collection[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(parser, config, config_filename, overwrite=True, save_to_log_dir=False, **kwargs)
        self._resumes = resumes
        self._given = given
        self._first_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, unless that has to wait."""
        self.parser.dump_header = header(getattr(pl_module, "plugins", None))
        if stage == "fit" and not self._resumes:
            self._save_once(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From where a resumed run goes on."""
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Write the file if it had to wait for a step."""
        if trainer.global_step > self._first_step:
            self._save_once(trainer, pl_module, "fit")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a `validate`."""
        self._save_evaluations(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a `test`."""
        self._save_evaluations(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a `predict`."""
        self._save_evaluations(trainer, pl_module)

    def _save_evaluations(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._save_once(trainer, pl_module, str(trainer.state.fn))

    def _save_once(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # the base class has all ranks wait for each other here; but that it has to wait, rank 0 alone knows
        if trainer.is_global_zero and not self.already_saved:
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; called on rank 0."""
        with written_beside(Path(trainer.default_root_dir) / self.config_filename) as beside:
            beside.write_text(self._text, encoding="utf-8")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the config with the state that it led to."""
        checkpoint[CONFIG_IN_CHECKPOINT] = self._text

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say how the run that goes on differs from the one that was cut off."""
        if (
            trainer.state.fn != TrainerFn.FITTING
            or not trainer.is_global_zero
            or CONFIG_IN_CHECKPOINT not in checkpoint
        ):
            return
        differences = config_differences(checkpoint[CONFIG_IN_CHECKPOINT], self._text, self._given)
        if differences:
            lines = "\n  ".join(["the config differs from the one that the checkpoint was trained with:", *differences])
            print(escaped(f"lightning-rlhf: {lines}"), file=sys.stderr)

    @cached_property
    def _text(self) -> str:
        config = self.config.clone()
        for name in _NOT_SAVED:
            config.pop(name, None)
        return str(self.parser.dump(config, skip_unset=False, skip_validation=True))
