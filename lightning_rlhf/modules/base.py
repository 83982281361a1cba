"""What the three stages share: loading the base, optimizer, denominators, checkpoints, resuming."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins import DeepSpeedPrecision, FSDPPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.arguments import require_at_least, require_finite, require_one_of
from lightning_rlhf.callbacks import NonFiniteGuard
from lightning_rlhf.checkpoints.changed_arguments import require_unchanged
from lightning_rlhf.checkpoints.frozen_weights import FrozenWeights
from lightning_rlhf.checkpoints.strategies import prepare_strategy
from lightning_rlhf.data import RLHFData
from lightning_rlhf.errors import ConfigError, ModelError
from lightning_rlhf.models import RecordedTemplate, evaluation_mode, require_trainable_adapters
from lightning_rlhf.modules.frozen_models import frozen_names, keep_frozen
from lightning_rlhf.modules.metrics import WindowLoss
from lightning_rlhf.modules.optimization import LRSchedule, adamw, check_schedule, learning_rate_schedule
from lightning_rlhf.modules.plain_trainer import PlainTrainerFiles
from lightning_rlhf.modules.recorded_arguments import adapter_settings, is_plain
from lightning_rlhf.modules.resumed_state import ResumedState
from lightning_rlhf.modules.resuming import (
    accumulated_gradients,
    mend_progress,
    random_state,
)
from lightning_rlhf.modules.run_inputs import RunInputs
from lightning_rlhf.modules.run_length import set_accumulation, steps_left, steps_taken
from lightning_rlhf.modules.safe_loading import SafeLoading
from lightning_rlhf.modules.sharding import gathered_weights, shard
from lightning_rlhf.modules.surroundings import RunSurroundings, gathered
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.plugin_system.provenance import (
    check_same_plugins,
    components_among,
    plugin_differences,
    versions_in_use,
)
from lightning_rlhf.version import __version__

__all__ = ["RLHFModule", "named_rows"]


class RLHFModule(PlainTrainerFiles, RunSurroundings, SafeLoading, ABC):
    """Base of the three stages.

    Args:
        learning_rate: peak learning rate of AdamW.
        weight_decay: decay of weight matrices; biases and norms are not decayed.
        warmup_steps: optimizer steps of linear warm-up.
        lr_schedule: what follows the warm-up; linear and cosine end at zero.
    """

    stage: ClassVar[str]
    """Short name of the stage, as in `runs/<stage>-<number>`."""

    data: ClassVar[type[RLHFData]]
    """The data module that makes the stage's batches."""

    predict_data: ClassVar[tuple[type[RLHFData], ...]] = ()
    """Data modules that `predict` takes beside it."""

    fixed_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments beside the adapter's that decide which weights are trained: a run that goes on must keep them."""

    exchangeable_models: ClassVar[tuple[str, ...]] = ()
    """Arguments that may name other models when a run goes on."""

    tokenizer: PreTrainedTokenizerBase
    recorded_template: RecordedTemplate | None
    """The template that the base was trained with, where its directory says so: the data module's default."""

    def __init__(
        self, *, learning_rate: float, weight_decay: float, warmup_steps: int, lr_schedule: LRSchedule
    ) -> None:
        super().__init__()
        require_at_least(0, learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps)
        require_one_of(LRSchedule, "lr_schedule", lr_schedule)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.lr_schedule: LRSchedule = lr_schedule
        self.window_loss = WindowLoss()
        self.is_sharded = False
        """Whether FSDP2 has sharded the models."""
        self._plugins: dict[str, str] = {}
        self._adapter: dict[str, Any] = {}
        self.inputs = RunInputs()
        self._resumed = ResumedState()
        self._frozen_weights = FrozenWeights(self)  # there are none yet
        self._num_steps = math.inf
        """Optimizer steps of the whole run, in the schedule's count; known when training starts."""

    def record_arguments(self) -> None:
        """`save_hyperparameters` of the calling `__init__`, without what a weights-only checkpoint cannot hold.

        Raises:
            ConfigError: a number among them is not finite.

        On the command line every component stands in the checkpoint as class path and arguments. A component object
        that a notebook passed cannot: `load_from_checkpoint` then takes it as an argument again.
        """
        frame = inspect.currentframe()
        caller = None if frame is None else frame.f_back
        assert caller is not None  # Python without frames has no Lightning either
        require_finite(caller.f_locals)
        # on the command line Lightning keeps the parsed config, not the objects. Asked beforehand, because
        # `save_hyperparameters` copies what it keeps, and a component may hold what cannot be copied
        given = _given_hyperparameters.get()
        arguments = caller.f_locals if given is None else given
        objects = [name for name, value in arguments.items() if not is_plain(value)]
        self.save_hyperparameters(frame=caller, ignore=objects)
        self.inputs.remember_code(components_among(caller.f_locals))
        self._adapter = adapter_settings(caller.f_locals.get("adapter"))
        names = [caller.f_locals.get(name) for name in ("base", "reference")]  # of models, perhaps
        self._plugins = versions_in_use(plugin_manager(), [*components_among(caller.f_locals), *names])

    def finish_loading(self) -> None:
        """To be called when all models are there: they train, and what is frozen in them is known again."""
        self.train()  # loaded models are in eval mode; dropout is as the stage and the base have it
        self._frozen_weights = FrozenWeights(self)

    # What a stage must say of itself

    @abstractmethod
    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """`{"params", "lr", "name"}` of each optimizer group."""

    @abstractmethod
    def write_model(self, path: Path) -> None:
        """Writes `model/`: what the next stage and transformers load. Called on rank 0, where all weights are whole."""

    @abstractmethod
    def require_savable(self) -> None:
        """Refuses models that `write_model` could not write, before anything is learned; nothing is written."""

    @abstractmethod
    def networks(self) -> Iterable[nn.Module]:
        """The models, each a root that FSDP2 shards by itself."""

    @abstractmethod
    def outputs(self, batch: Any) -> Tensor:
        """What the trained models compute of a training batch, of any shape; draws no random number."""

    def frozen_networks(self) -> Iterable[nn.Module]:
        """Models that are never trained: they come from their files on a resume too, not from the checkpoint."""
        return ()

    # Surroundings

    @property
    def max_positions(self) -> int | None:
        """Tokens at most of a row of the trained model; None where its config sets no limit."""
        trained = next(iter(self.networks()))
        configs = (module.config for module in trained.modules() if isinstance(module, PreTrainedModel))
        positions = getattr(next(configs, None), "max_position_embeddings", None)
        return positions if isinstance(positions, int) else None

    @property
    def num_embeddings(self) -> int | None:
        """Token ids that the trained model embeds, from 0 on; None where it has no table of them."""
        trained = next(iter(self.networks()))
        models = (module for module in trained.modules() if isinstance(module, PreTrainedModel))
        table = getattr(next(models, None), "get_input_embeddings", lambda: None)()
        number = getattr(table, "num_embeddings", None)
        return number if isinstance(number, int) else None

    @property
    def plugins(self) -> dict[str, str]:
        """Versions of this library and of the plug-ins that module, data and callbacks use, by distribution."""
        trainer: Any = self._trainer
        data = None if trainer is None else trainer.datamodule
        components = data.components if isinstance(data, RLHFData) else []
        for callback in [] if trainer is None else trainer.callbacks:
            components = [*components, *getattr(callback, "components", [])]
        return {**self._plugins, **versions_in_use(plugin_manager(), components)}

    @property
    def template_record(self) -> RecordedTemplate | None:
        """The template of this run's data, else what the base recorded."""
        formatter = getattr(getattr(self._trainer, "datamodule", None), "formatter", None)
        return formatter.record if formatter is not None else self.recorded_template

    def export(self, path: Path) -> None:
        """Writes `model/` once; to be called on every rank."""
        with self.whole_weights(*self.networks()):
            if self.trainer.is_global_zero:
                self.write_model(path)
        self.trainer.strategy.barrier("model is written")

    def describe_batch(self, batch_idx: int) -> str:
        """Which rows a training batch of this epoch holds, for a message; empty where that cannot be told."""
        rows_of_batch = getattr(self.trainer.train_dataloader, "places", None)
        return "" if rows_of_batch is None else named_rows(rows_of_batch(batch_idx))

    @torch.no_grad()
    def computed_on(self, batch: Any) -> Tensor:
        """`outputs` of the weights as they are, without a trace: no dropout, no graph, the modes as before."""
        with evaluation_mode(self), self.trainer.precision_plugin.forward_context():
            return self.outputs(batch)

    @contextmanager
    def whole_weights(self, *networks: nn.Module) -> Iterator[None]:
        """Inside, every rank holds all weights of these networks: for generation and export under FSDP2.

        Elsewhere there is nothing to do.
        """
        with gathered_weights(networks):
            yield

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        """Refuses data of another stage, strategies that cannot work, and ranks with different plug-ins.

        Raises:
            ConfigError: one of the first two.
            PluginError: the last.
        """
        datamodule, strategy = self.trainer.datamodule, self.trainer.strategy  # type: ignore[attr-defined]
        if not isinstance(datamodule, (self.data, *(self.predict_data if stage == "predict" else ()))):
            found = "none" if datamodule is None else f"a {type(datamodule).__name__}"
            raise ConfigError(f"{type(self).__name__} must be run with a {self.data.__name__}, got {found}.")
        if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
            raise ConfigError(
                "the strategy must be one device, DDP or ModelParallelStrategy (FSDP2), which shards the weights, "
                f"got {type(strategy).__name__}."
            )
        if isinstance(self.trainer.precision_plugin, FSDPPrecision | DeepSpeedPrecision):
            raise ConfigError(
                "trainer.plugins must name a precision of the strategy's own, got "
                f"{type(self.trainer.precision_plugin).__name__}. Set trainer.precision in its place."
            )
        prepare_strategy(strategy)
        if stage == "fit" or isinstance(strategy, ModelParallelStrategy):  # which shards them soon
            self._frozen_weights.sum_up(self)
        self.inputs.begin(self.trainer)
        if self.trainer.world_size > 1:
            check_same_plugins(gathered(dict(plugin_manager().versions())))

    def configure_model(self) -> None:
        """Shards the models when the strategy has a device mesh (FSDP2); idempotent."""
        mesh = self.device_mesh
        if mesh is None or self.is_sharded:
            return
        if mesh["tensor_parallel"].size() > 1:
            raise ConfigError(
                f"tensor_parallel_size must be 1, got {mesh['tensor_parallel'].size()}. The weights are sharded over "
                "data_parallel_size devices."
            )
        shard(self.networks(), mesh["data_parallel"])
        self.is_sharded = True

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One AdamW with the stage's parameter groups and a schedule that is stepped with it."""
        optimizer = adamw(self.parameter_groups(), weight_decay=self.weight_decay, scales_gradients=self.scales_loss)
        scheduler = learning_rate_schedule(
            optimizer,
            self.lr_schedule,
            warmup_steps=self.warmup_steps,
            num_steps=lambda: self._num_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning leaves out: random states of every rank, versions and plug-ins, the template.

        Within an accumulation window also its gradients so far. Of several ranks there is no room for them.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, NonFiniteGuard):
                callback.check_weights(self)  # Lightning asks no callback when weights alone are saved
        mend_progress(checkpoint, self.trainer)
        gradients = accumulated_gradients(self.trainer, self.named_parameters())
        window = None
        if gradients is not None:
            loss = self.window_loss.total.detach().clone()
            window = {"gradients": gradients if self.trainer.world_size == 1 else None, "loss": loss}
        checkpoint["lightning_rlhf"] = {
            "version": __version__,
            "stage": self.stage,
            "seed": self.seed,
            "plugins": self.plugins,
            "random_states": gathered(random_state()),
            "window": window,
            "adapter": self._adapter,
            **self.inputs.state(self._trainer),
            "optimizer_options": self._resumed.configured_options,
            "template": None if self.template_record is None else self.template_record.to_dict(),
        }
        if "state_dict" in checkpoint and not self.is_sharded:
            self._frozen_weights.leave_out(checkpoint, self, never=frozen_names(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the random states for the moment when training goes on, and compares seed and plug-ins.

        Raises:
            ModelError: it is no checkpoint of this stage.
        """
        saved = checkpoint.get("lightning_rlhf", {})
        if saved.get("stage") != self.stage:
            found = f"one of {saved['stage']!r}" if "stage" in saved else "one that none of the stages wrote"
            raise ModelError(
                f"the checkpoint must be one of the stage {self.stage!r}, got {found}. To start from what another "
                "stage has trained, name its `model` directory as base."
            )
        given = checkpoint.get("hyper_parameters", {})
        fixed = [name for name in self.fixed_arguments if name in given]
        require_unchanged(
            "a run that goes on",
            {name: given[name] for name in fixed} | saved.get("adapter", {}),
            {name: self.hparams[name] for name in fixed} | self._adapter,
            "To train otherwise, name the run's `model` directory as base of a new run.",
        )
        keep_frozen(checkpoint, self)
        self._frozen_weights.put_back(checkpoint, self)
        self.inputs.resume(checkpoint, self)
        if saved.get("seed", self.seed) != self.seed and self._trainer is not None and self.trainer.training:
            rank_zero_warn(
                f"the checkpoint was written with seed {saved['seed']}, this run has {self.seed}: it goes on, but not "
                "as the run that was cut off would have."
            )
        if self._trainer is not None and self.trainer.training:
            self._resumed.load(checkpoint)
        before, now = saved.get("plugins", {}), self.plugins
        if self._trainer is None or not self.trainer.training:  # other data, or none: only what both use is compared
            now = {name: version for name, version in plugin_manager().versions().items() if name in before}
        if changes := plugin_differences(before, now):
            rank_zero_warn(f"the checkpoint was written with other plug-ins than this run uses: {', '.join(changes)}.")

    def on_fit_start(self) -> None:
        """Keeps the optimizer's options as this run configured them, before Lightning restores those of another.

        Then tries a step with the adapters and all of `model/` but the writing: what fails must not fail at the end.

        Raises:
            ConfigError: the layers under the adapters cannot be trained.
            ModelError: the model could not be saved.
        """
        self._resumed.keep_configured(self.trainer)
        if self.is_sharded:
            return
        with self.trainer.precision_plugin.forward_context():
            for network in self.networks():
                require_trainable_adapters(network)
        self.require_savable()

    def on_train_start(self) -> None:
        """Checks the schedule, and restores of a resumed run what Lightning does not.

        Raises:
            ConfigError: the schedule and the length of the run do not fit.
        """
        set_accumulation(self.trainer)
        self._num_steps = steps_taken(self.trainer) + steps_left(self.trainer)
        # a trial of one batch is no reason to refuse a warm-up that is meant for the whole run
        if self.lr_schedule != "constant" and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_schedule(self.lr_schedule, warmup_steps=self.warmup_steps, num_steps=self._num_steps)
        self._resumed.put_in_force(self, self.window_loss)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Steps, and logs learning rate and loss of the whole accumulation window."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.log_step(optimizer)

    def log_step(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Logs learning rate and loss of the accumulation window that ends; from `optimizer_step` only.

        Lightning keeps the numbers of each hook apart, and repeats the last ones where a hook logs none.
        """
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        self.log("train/loss", self.window_loss.compute(), prog_bar=True)
        self.window_loss.reset()


def named_rows(places: Sequence[str], most: int = 8) -> str:
    """Rows by their file and line, not more than can be looked at."""
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return f"rows {', '.join(places[:most])}{more}"
