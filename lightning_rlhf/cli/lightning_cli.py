"""LightningCLI for the three stages, with its traps taken care of."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rlhf.callbacks.last_checkpoint import LastCheckpoint
from lightning_rlhf.callbacks.prediction_writer import PredictionWriter
from lightning_rlhf.callbacks.run_root import RunRoot, is_first_process
from lightning_rlhf.callbacks.termination import TerminationSignals
from lightning_rlhf.checkpoints.leftovers import settle_run
from lightning_rlhf.checkpoints.root_choice import run_directory_for_evaluation, run_directory_for_training
from lightning_rlhf.checkpoints.run_directory import RunDirectory, handed_down, inherited
from lightning_rlhf.checkpoints.run_files import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    MODEL_FOLDER,
    checkpoints,
    last_checkpoint,
)
from lightning_rlhf.cli.callbacks import ConfigFile
from lightning_rlhf.cli.checkpoint_path import NO_FILE, check_checkpoint, newest_usable, refused_checkpoint
from lightning_rlhf.cli.config_numbers import check_numbers
from lightning_rlhf.cli.config_text import check_yaml
from lightning_rlhf.cli.explain import Explainer
from lightning_rlhf.cli.help_text import reworded
from lightning_rlhf.cli.loggers import default_loggers, with_metrics_file
from lightning_rlhf.cli.parser import Parser, ReportedError, header, reads_local_configs
from lightning_rlhf.cli.refusals import refusal_of_parts, refusal_of_run
from lightning_rlhf.cli.resumed_config import argument_names, filled_in, plain_config, saved_config
from lightning_rlhf.cli.roots import usable_root
from lightning_rlhf.cli.spawned import children_ends
from lightning_rlhf.errors import ConfigError, ModelError, shown
from lightning_rlhf.terminal import escaped

__all__ = ["RLHFCLI", "base_classes"]

_DESCRIPTIONS = {
    "fit": "Train one stage. The stage is the class of --model: SFTModule, RewardModule or PPOModule.",
    "validate": "The validation metrics of a checkpoint; without --ckpt_path of the base as it is.",
    "test": "The validation metrics on the test split.",
    "predict": "Write predictions.jsonl: responses, or the scores of a reward model, as --ckpt_path has trained it.",
}
_LOG_EVERY_N_STEPS = 1  # a step of a language model takes far longer than a row of a file


def base_classes() -> tuple[type[LightningModule], type[LightningDataModule]]:
    """What `--model` and `--data` must be subclasses of."""
    from lightning_rlhf.data import RLHFData
    from lightning_rlhf.modules import RLHFModule

    return RLHFModule, RLHFData


class RLHFCLI(LightningCLI):
    """LightningCLI for the three stages.

    Args:
        argv: the words after the program's name, the command first.
        here: the working directory, before any plug-in could change it; default: as it is now.
    """

    _directory: RunDirectory | None = None

    def __init__(self, argv: list[str], here: Path | None = None) -> None:
        self._here = here or Path.cwd()
        self._predictions = PredictionWriter()
        self._command = argv[0] if argv else None
        self._given: set[str] | None = None
        model_class, data_class = base_classes()
        lines = header()
        parser_kwargs: dict[str, Any] = {"prog": "lightning-rlhf", "allow_abbrev": False, "dump_header": lines}
        for name in self.subcommands():
            description = _DESCRIPTIONS[name]
            usage = f"lightning-rlhf {name} [--config FILE] [--name value ...]"
            parser_kwargs[name] = {"description": description, "usage": usage, "dump_header": lines}
        try:
            super().__init__(
                model_class,
                data_class,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=ConfigFile,
                trainer_defaults={"log_every_n_steps": _LOG_EVERY_N_STEPS},
                seed_everything_default=0,
                parser_class=Parser,
                parser_kwargs=parser_kwargs,
                auto_configure_optimizers=False,  # it would replace the modules' parameter groups
                args=argv,
            )
        finally:
            if self._directory is not None:
                self._directory.release()

    # Parsing

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command of this process alone, if it is one: to set the others' many arguments up takes its time."""
        commands = super().subcommands()
        return {name: skipped for name, skipped in commands.items() if name == self._command} or commands

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # nothing is unpickled unless it is asked for
        if subcommand == "fit":
            parser.add_argument(
                "--overwrite", action="store_true", help="Replace the run that trainer.default_root_dir holds."
            )
        if subcommand == "predict":
            parser.add_argument(
                "--overwrite", action="store_true", help="Replace predictions.jsonl; else it is kept under a number."
            )
            parser.set_defaults({"return_predictions": False})  # they go to a file; in memory they would pile up
        return reads_local_configs(reworded(parser))

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a user writes first: the stage, its data, and then the trainer's many arguments."""
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in one sentence what is wrong.

        Raises:
            ConfigError: something is.
        """
        self._words = args
        for word in args:
            check_yaml(word.partition("=")[2] or word, shown(word.partition("=")[0]))
        try:
            self.config = parser.parse_args(args)
        except ReportedError as report:
            raise ConfigError(self._explainer(args).explain(str(report))) from report
        except UnicodeDecodeError as error:
            raise ConfigError(f"{' or '.join(_files(args))} must be UTF-8 text: {error}.") from error
        except (RecursionError, OverflowError) as error:
            raise ConfigError(f"what the config says must be values that fit its arguments, got {error}.") from error
        check_numbers(self.config[self.config.subcommand].as_dict())

    def _explainer(self, args: list[str]) -> Explainer:
        subcommand = args[0] if args and args[0] in self._subcommand_parsers else "fit"
        words = [word for action in self._parser(subcommand)._actions for word in action.option_strings]
        hints = get_type_hints(Trainer.__init__)
        types = {f"trainer.{name}": hint for name, hint in hints.items()}
        types |= {"model": self._model_class, "data": self._datamodule_class}
        return Explainer(subcommand, types, [word[2:] for word in words if word.startswith("--")], _files(args))

    def _parse_ckpt_path(self) -> None:
        """Leave what a resuming call does not say as the run has it.

        The base class would put the checkpoint's arguments over those that the user gave.
        """
        name = str(self.config.subcommand)
        checkpoint = _resumed_checkpoint(self.config[name], self._here) if name == "fit" else None
        before = {} if checkpoint is None else saved_config(checkpoint)
        if not before:
            return
        parser, read = self._parser(name), self.config[name]
        given = plain_config(parser, self.parser.parse_args(self._words, defaults=False)[name])
        self._given = set(argument_names(given))
        filled = filled_in(given, plain_config(parser, read), before)
        if filled is not None:
            self.config[name] = parser.parse_object(filled)
            self.config[name].config = read.get("config")

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ConfigError(f"seed_everything must be a number that every generator takes: {error}.") from error

    # Building

    def before_instantiate_classes(self) -> None:
        """Choose the root, before anything large is loaded."""
        config = self.config[self.subcommand]
        is_fit = self.subcommand == "fit"
        self._directory = self._choose_directory()
        config.trainer.default_root_dir = str(self._directory.shown)
        self.save_config_kwargs = {
            "config_filename": CONFIG_FILE if is_fit else f"config-{self.subcommand}.yaml",
            "resumes": self._directory.resumes,
            "given": self._given,
        }
        with self._nothing_left_behind():
            if is_fit and not config.trainer.fast_dev_run and is_first_process():
                settle_run(self._directory.path)
            check_checkpoint(config.ckpt_path, self._directory.path, is_fit=is_fit, is_first=is_first_process())

    def _choose_directory(self) -> RunDirectory:
        config = self.config[self.subcommand]
        root, ckpt_path = config.trainer.default_root_dir, config.ckpt_path
        root = usable_root(None if root is None else str(root))
        if not is_first_process():
            # whatever this process would choose, rank 0 has chosen or will say
            return RunDirectory(inherited() or self._here / (root or "runs"))
        module, _, name = config.model.class_path.rpartition(".")
        stage = getattr(import_module(module), name).stage
        if self.subcommand != "fit":
            return run_directory_for_evaluation(root, stage, ckpt_path, str(self.subcommand), self._here)
        dry_run = bool(config.trainer.fast_dev_run)
        return run_directory_for_training(
            root, stage, ckpt_path, overwrite=config.overwrite, dry_run=dry_run, here=self._here
        )

    def instantiate_classes(self) -> None:
        """Build module, data module and trainer.

        Raises:
            ConfigError: an optional package is missing, or a part of Lightning's refuses its arguments.
        """
        with self._nothing_left_behind():
            try:
                super().instantiate_classes()
            except Exception as error:
                refusal = refusal_of_parts(error)
                if isinstance(refusal, ConfigError):
                    raise refusal from error
                if refusal is None:
                    raise
                raise refusal from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with the run's loggers and callbacks where the user has none.

        Raises:
            ConfigError: Lightning refuses the arguments.
        """
        config = self._get(self.config_init, "trainer")
        callbacks = config.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        kwargs["default_root_dir"] = str(self.directory.path)
        kwargs["callbacks"] = [RunRoot(self.directory), *callbacks, *self._default_callbacks(config, callbacks)]
        if config.barebones:
            kwargs["log_every_n_steps"] = None
        elif config.logger in (None, True) and not config.fast_dev_run:
            kwargs["logger"] = default_loggers(self.directory, str(self.subcommand))
        elif config.logger and not config.fast_dev_run:
            kwargs["logger"] = with_metrics_file(config.logger, self.directory, str(self.subcommand))
        accumulate, clip = config.accumulate_grad_batches, config.gradient_clip_val
        if accumulate < 1:
            raise ConfigError(f"trainer.accumulate_grad_batches must be at least 1, got {accumulate}.")
        if clip is not None and not clip >= 0:
            raise ConfigError(f"trainer.gradient_clip_val must be 0 or more, or null, got {clip}.")
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise ConfigError(f"the trainer's arguments must fit together: {error}") from error

    def _default_callbacks(self, config: Any, callbacks: list[Any]) -> list[Any]:
        if self.subcommand == "predict":
            self._predictions.overwrite = self.config[self.subcommand].overwrite
            return [self._predictions]
        if self.subcommand != "fit" or config.enable_checkpointing is False or config.barebones:
            return []
        has_own = any(isinstance(callback, Checkpoint) for callback in callbacks)
        last = LastCheckpoint(self.directory.path / CHECKPOINT_FOLDER, regular=not has_own)
        return [TerminationSignals(last), last]

    @contextmanager
    def _nothing_left_behind(self) -> Iterator[None]:
        """Takes an empty root away again when what is inside fails."""
        try:
            yield
        except BaseException:
            self.directory.discard_if_empty()
            raise

    @property
    def directory(self) -> RunDirectory:
        """The root of this run."""
        assert self._directory is not None, "chosen before anything is built"
        return self._directory

    # Running

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with self._nothing_left_behind(), handed_down(self.directory.path), children_ends(self.trainer):
                super()._run_subcommand(subcommand)
        except BaseException as error:
            self._stop_other_ranks()
            if subcommand == "fit" and is_first_process() and not self.directory.has_begun:
                self.directory.withdraw()
            elif subcommand == "fit" and isinstance(error, SIGTERMException) and is_first_process():
                self._say_how_to_go_on()
            if reason := refused_checkpoint(error):
                raise ModelError(
                    f"ckpt_path must be a checkpoint of this module, got one that is not: {reason}"
                ) from error
            if refusal := refusal_of_run(error):
                raise refusal from error
            raise

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if kwargs.get("ckpt_path") == "last":
            kwargs["ckpt_path"] = str(self._last_checkpoint() or "last")
        elif kwargs.get("ckpt_path") not in (None, *NO_FILE) and "://" not in str(kwargs["ckpt_path"]):
            kwargs["ckpt_path"] = str(self._here / kwargs["ckpt_path"])
        return kwargs

    def _last_checkpoint(self) -> Path | None:
        folders = self._checkpoint_folders()
        last = last_checkpoint(self.directory.path, *folders)
        keeps_last = any(getattr(callback, "save_last", None) for callback in self.trainer.checkpoint_callbacks)
        return newest_usable(self.directory.path, *folders) if last is None and keeps_last else last

    def _checkpoint_folders(self) -> list[Path]:
        """Where callbacks write checkpoints."""
        folders = [getattr(callback, "dirpath", None) for callback in self.trainer.checkpoint_callbacks]
        return [Path(folder) for folder in folders if folder is not None]

    def _say_how_to_go_on(self) -> None:
        """After SIGTERM: a job's log shows what became of it."""
        last = last_checkpoint(self.directory.path)
        go_on = "nothing was saved" if last is None else f"go on with --ckpt_path {self.directory.named(last)}"
        print(escaped(f"lightning-rlhf: terminated after step {self.trainer.global_step}: {go_on}"), file=sys.stderr)

    def _stop_other_ranks(self) -> None:
        """Ends the processes that this one started: left alone they would wait for it in a collective."""
        kill = getattr(self.trainer.strategy.launcher, "kill", None)
        if kill is not None:
            kill(getattr(signal, "SIGKILL", signal.SIGTERM))

    def before_fit(self) -> None:
        """Everything is built: a run that is to be overwritten makes room, and one that left nothing to go on from."""
        if is_first_process():
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                settle_run(self.directory.path, *self._checkpoint_folders())
            last = self.config[self.subcommand].ckpt_path == "last" and self._last_checkpoint() is None
            anew = last and self.directory.resumes and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
            if anew:
                self.directory.refuse_to_lose(self._checkpoint_folders())
            self.directory.begin(anew=anew)

    def after_fit(self) -> None:
        """Say where things are, and how good they are."""
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        root = self.directory.shown
        if not self.directory.has_begun:
            self.directory.withdraw()
            print("nothing was trained: the run has no step to make, and leaves nothing behind")
            return
        has_model = (self.directory.path / MODEL_FOLDER).exists()
        print(f"the run is in {root}" + (f", the trained model in {root / MODEL_FOLDER}" if has_model else ""))
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        shown = [f"{name} {value:.4g}" for name, value in sorted(metrics.items()) if name.startswith("val/")]
        if shown:
            print("last validation: " + ", ".join(shown))

    def _say_what_is_evaluated(self) -> None:
        root = self.directory.path
        if self.config[self.subcommand].ckpt_path is None and checkpoints(root) and is_first_process():
            trained = "last" if last_checkpoint(root) else str(self.directory.named(checkpoints(root)[-1]))
            print(
                escaped(
                    "lightning-rlhf: this is the base as it is, before training. What the run in "
                    f"{self.directory.shown} has trained is --ckpt_path {trained}"
                ),
                file=sys.stderr,
            )

    before_validate = before_test = before_predict = _say_what_is_evaluated

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            with (self.directory.path / self._predictions.file).open("rb") as lines:  # another process may have written
                number = sum(1 for _ in lines)
            print(f"{number} predictions are in {self.directory.shown / self._predictions.file}")


def _resumed_checkpoint(config: Any, here: Path) -> Path | None:
    """The checkpoint that a `fit` goes on from, as far as it can be told before the run's directory is chosen."""
    if config.ckpt_path != "last":
        return Path(config.ckpt_path) if config.ckpt_path and Path(config.ckpt_path).exists() else None
    root = inherited() or config.trainer.default_root_dir
    return None if root is None else last_checkpoint(here / root)


def _files(args: list[str]) -> list[str]:
    """The configuration files that the words name."""
    files = [after for word, after in pairwise(args) if word in ("-c", "--config")]
    return files + [word.partition("=")[2] for word in args if word.startswith(("-c=", "--config="))]
