"""What the command line does when a run sets up: agree on the root, write the config down."""

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from lightning_rlhf.checkpoints.run_directory import CONFIG_FILE, RunDirectory
from lightning_rlhf.cli.config_differences import config_differences
from lightning_rlhf.cli.parser import header
from lightning_rlhf.files import written_beside

__all__ = ["ConfigFile", "SharedRoot"]

_IN_CHECKPOINT = "lightning_rlhf_config"
_NOT_SAVED = ("config", "overwrite")  # they belong to one call: a saved `overwrite` would remove a run by itself


class SharedRoot(Callback):
    """Gives every rank the root that rank 0 has chosen.

    Ranks that rank 0 starts inherit it; those that an outside launcher starts choose on their own at first.

    Args:
        directory: what this process has chosen.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._has_stepped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over rank 0's choice before anything is written."""
        root = trainer.strategy.broadcast(str(self._directory.path))
        if root != str(self._directory.path):
            self._directory.discard_if_empty()
            trainer._default_root_dir = root  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """The run has made a step: the one that it overwrites may go."""
        if not self._has_stepped and trainer.global_step:
            self._has_stepped = True
            if trainer.is_global_zero:
                self._directory.let_go()


class ConfigFile(SaveConfigCallback):
    """Writes the run's config into its root, as often as a run begins there.

    Args:
        parser: parser of the subcommand.
        config: the parsed config.
        config_filename: name of the file.
        resumes: the root holds the earlier part of this run: its config stays until the checkpoint is loaded, since a
            checkpoint that cannot be used must leave the run as it was.
        **kwargs: as for the base class.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Any,
        config_filename: str = CONFIG_FILE,
        resumes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(parser, config, config_filename, overwrite=True, save_to_log_dir=False, **kwargs)
        self._resumes = resumes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, unless that has to wait."""
        self.parser.dump_header = header(getattr(pl_module, "plugins", None))
        if not self._resumes:
            self._save_once(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file if it had to wait."""
        self._save_once(trainer, pl_module, "fit")

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
        checkpoint[_IN_CHECKPOINT] = self._text

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say how the run that goes on differs from the one that was cut off."""
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero or _IN_CHECKPOINT not in checkpoint:
            return
        differences = config_differences(checkpoint[_IN_CHECKPOINT], self._text)
        if differences:
            lines = "\n  ".join(["the config differs from the one that the checkpoint was trained with:", *differences])
            print(f"lightning-rlhf: {lines}", file=sys.stderr)

    @cached_property
    def _text(self) -> str:
        config = self.config.clone()
        for name in _NOT_SAVED:
            config.pop(name, None)
        return str(self.parser.dump(config, skip_unset=False, skip_validation=True))
