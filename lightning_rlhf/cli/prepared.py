"""A run as `fit` would build it, which is looked at and never started: what `doctor` and `inspect` work on."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device

from lightning_rlhf.checkpoints.run_directory import RunDirectory
from lightning_rlhf.cli.lightning_cli import RLHFCLI
from lightning_rlhf.data import RLHFData
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.modules import PPOModule, RewardModule, RLHFModule, SFTModule

__all__ = ["STAGES", "Placement", "PreparedRun", "UnstartedRun", "attached", "quiet_trainer"]

STAGES: dict[str, type[RLHFModule]] = {module.stage: module for module in (SFTModule, RewardModule, PPOModule)}

_WITHOUT_TRACES = {
    "strategy": "auto",
    "num_nodes": 1,
    "logger": False,
    "callbacks": None,
    "profiler": None,
    "fast_dev_run": False,
    "barebones": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""The trainer's arguments as one process needs them that looks at a run: nothing is launched, logged or saved."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the run itself would be.

    Args:
        strategy: its name, or the name of its class.
        devices: what `trainer.devices` says.
        num_nodes: machines.
    """

    strategy: str
    devices: Any
    num_nodes: int


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """Module, data and trainer, attached to each other, the models on their device.

    Args:
        module: of the stage.
        data: its data module.
        trainer: of one process and one device, with the precision of the run.
        placement: where the run itself would be.
    """

    module: RLHFModule
    data: RLHFData
    trainer: Trainer
    placement: Placement

    def placed(self, batch: Any) -> Any:
        """A batch as a step of the run would get it: on the device, in the run's precision."""
        return self.trainer.precision_plugin.convert_input(move_data_to_device(batch, self.module.device))


class UnstartedRun(RLHFCLI):
    """The words of a `fit`, parsed; built when asked for, and never run. The run's directory is not touched.

    Args:
        words: options of `fit`.
        stage: short name of the stage that they are for: its classes need not be named then; None: as the words say.

    Raises:
        ConfigError: the words are not options of `fit`, or are for another stage.
    """

    def __init__(self, words: Sequence[str], stage: str | None = None) -> None:
        self._placement = Placement("auto", "auto", 1)
        classes = []
        if stage is not None:
            module = STAGES[stage]
            classes = [f"--model={module.__name__}", f"--data={module.data.__name__}"]
        super().__init__(["fit", *classes, *words])
        found = STAGES.get(stage) if stage else None
        name = self.arguments.class_path.rpartition(".")[2]
        if found is not None and name != found.__name__:
            raise ConfigError(
                f"the stage must be that of the config, got --stage {stage} for a config of {name}. Leave --stage out."
            )

    @property
    def arguments(self) -> Any:
        """`class_path` and `init_args` of the module."""
        return self.config[self.subcommand].model

    def build(self) -> PreparedRun:
        """Loads the models and attaches everything, as the beginning of a run does.

        Raises:
            LightningRLHFError: it cannot be built.
        """
        with quiet_trainer():
            super().instantiate_classes()
            return attached(self.model, self.datamodule, self.trainer, self._placement)

    # The steps that the base class takes by itself

    def before_instantiate_classes(self) -> None:
        """Keep what the run would have, and take what looking at it needs."""
        config = self.config[self.subcommand]
        if config.ckpt_path is not None:
            raise ConfigError(
                f"ckpt_path must be left out, got {config.ckpt_path!r}: a run is looked at before its first step. To "
                "look at what a run has trained, name its `model` directory as base."
            )
        trainer = config.trainer
        strategy = trainer.strategy
        name = strategy if isinstance(strategy, str) else strategy.class_path.rpartition(".")[2]
        self._placement = Placement(name, trainer.devices, trainer.num_nodes)
        for argument, value in _WITHOUT_TRACES.items():
            setattr(trainer, argument, value)
        trainer.devices = [trainer.devices[0]] if isinstance(trainer.devices, list) and trainer.devices else 1
        self._directory = RunDirectory(Path(trainer.default_root_dir or "runs"), resumes=True)

    def instantiate_classes(self) -> None:
        """Nothing yet: `build` does it."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: the run is not started."""


def attached(module: RLHFModule, data: RLHFData, trainer: Trainer, placement: Placement) -> PreparedRun:
    """What a Trainer does with a module and its data before anything runs.

    Args:
        module: of a stage.
        data: its data module.
        trainer: of one process.
        placement: where the run itself would be.

    Raises:
        ConfigError: module and data are of different stages.
    """
    trainer.strategy.connect(module)
    module.trainer = data.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]
    module.setup("fit")
    trainer.strategy.setup_environment()
    trainer.strategy.setup(trainer)
    return PreparedRun(module, data, trainer, placement)


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Inside, Lightning does not report devices and seeds: warnings and errors alone are shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
