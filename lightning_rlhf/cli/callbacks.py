"""What the command line does when a run sets up: agree on the root, write the config down."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lightning_rlhf.cli.parser import header
from lightning_rlhf.cli.run_directory import CONFIG_FILE, RunDirectory

__all__ = ["ConfigFile", "SharedRoot"]

_NOT_SAVED = ("config", "overwrite")  # they belong to one call: a saved `overwrite` would remove a run by itself


class SharedRoot(Callback):
    """Gives every rank the root that rank 0 has chosen.

    Ranks that rank 0 starts inherit it; those that an outside launcher starts choose on their own at first.

    Args:
        directory: what this process has chosen.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over rank 0's choice before anything is written."""
        root = trainer.strategy.broadcast(str(self._directory.path))
        if root != str(self._directory.path):
            self._directory.discard_if_empty()
            trainer._default_root_dir = root  # type: ignore[attr-defined]


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
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file if it had to wait."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; called on rank 0."""
        config = self.config.clone()
        for name in _NOT_SAVED:
            config.pop(name, None)
        root = Path(trainer.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        beside = root / f"{self.config_filename}.part"
        text = self.parser.dump(config, skip_unset=False, skip_validation=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(root / self.config_filename)
