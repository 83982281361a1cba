"""What the three stages share: loading the base, optimizer, denominators, checkpoints, resuming."""

import inspect
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.callbacks import ModelExport, SampleTable
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import RecordedTemplate
from lightning_rlhf.modules.optimization import LRSchedule, adamw, learning_rate_schedule
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.version import __version__

__all__ = ["RLHFModule", "gathered", "require"]


def require(condition: bool, subject: str, rule: str, value: object) -> None:
    """Raises `ConfigError` in the house form unless the condition holds."""
    if not condition:
        raise ConfigError(f"{subject} must {rule}, got {value}.")


class RLHFModule(L.LightningModule, ABC):
    """Base of the three stages.

    Args:
        learning_rate: peak learning rate of AdamW.
        weight_decay: decay of weight matrices; biases and norms are not decayed.
        warmup_steps: optimizer steps of linear warm-up.
        lr_schedule: what follows the warm-up; linear and cosine end at zero.
    """

    stage: ClassVar[str]
    """Short name of the stage, as in `runs/<stage>-<number>`."""

    tokenizer: PreTrainedTokenizerBase
    recorded_template: RecordedTemplate | None
    """The template that the base was trained with, where its directory says so: the data module's default."""

    def __init__(
        self, *, learning_rate: float, weight_decay: float, warmup_steps: int, lr_schedule: LRSchedule
    ) -> None:
        super().__init__()
        require(learning_rate >= 0, "learning_rate", "be 0 or more", learning_rate)
        require(weight_decay >= 0, "weight_decay", "be 0 or more", weight_decay)
        require(warmup_steps >= 0, "warmup_steps", "be 0 or more", warmup_steps)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.lr_schedule: LRSchedule = lr_schedule
        self._sharded = False
        self._random_states: list[dict[str, Any]] | None = None

    def record_arguments(self) -> None:
        """`save_hyperparameters` of the calling `__init__`, without what a weights-only checkpoint cannot hold.

        On the command line every component stands in the checkpoint as class path and arguments. A component object
        that a notebook passed cannot: `load_from_checkpoint` then takes it as an argument again.
        """
        frame = inspect.currentframe()
        caller = None if frame is None else frame.f_back
        self.save_hyperparameters(frame=caller)
        objects = [name for name, value in self.hparams.items() if not _is_plain(value)]
        self.save_hyperparameters(frame=caller, ignore=objects)

    # What a stage must say of itself

    @abstractmethod
    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """`{"params", "lr", "name"}` of each optimizer group."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Writes `model/`: what the next stage and transformers load. Called on every rank."""

    @abstractmethod
    def networks(self) -> Iterable[nn.Module]:
        """The models, each a root that FSDP2 shards by itself."""

    # Surroundings

    @property
    def seed(self) -> int:
        """The run's seed: `seed_everything` on the command line or in a notebook; 0 without it."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def num_data_ranks(self) -> int:
        """Ranks that see different rows, over which the strategy averages gradients."""
        kwargs = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}
        return int(kwargs.get("num_replicas", self.trainer.world_size))

    @property
    def loss_scale(self) -> int:
        """What turns `sum / N` into the global mean's gradient.

        Lightning divides by `accumulate_grad_batches` and strategies average over ranks; N already counts the whole
        accumulation window over all ranks.
        """
        return self.trainer.accumulate_grad_batches * self.num_data_ranks

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in the tensor's own dtype."""
        if self.trainer.world_size == 1:
            return value
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum")

    @property
    def template_record(self) -> RecordedTemplate | None:
        """The template of this run's data, else what the base recorded."""
        formatter = getattr(getattr(self._trainer, "datamodule", None), "formatter", None)
        return formatter.record if formatter is not None else self.recorded_template

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Inside, every rank holds all weights: for generation and export under FSDP2; nothing to do elsewhere."""
        members = [m for network in self.networks() for m in network.modules() if isinstance(m, FSDPModule)]
        for module in members:
            # without this each layer would be sharded again after its forward, and gathered at the next token: a
            # collective that hangs as soon as one rank's responses have all stopped
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in members:
                module.set_reshard_after_forward(True, recurse=False)
                module.reshard()

    # Lightning's hooks

    def configure_model(self) -> None:
        """Shards the models when the strategy has a device mesh (FSDP2); idempotent."""
        mesh = self.device_mesh
        if mesh is None or self._sharded:
            return
        for network in self.networks():
            for layer in _decoder_layers(network):
                fully_shard(layer, mesh=mesh["data_parallel"])
            fully_shard(network, mesh=mesh["data_parallel"])
        self._sharded = True

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks that belong to every run, so that a plain Trainer does what the command line does."""
        return [SampleTable(), ModelExport()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One AdamW with the stage's parameter groups and a schedule that is stepped with it."""
        optimizer = adamw(self.parameter_groups(), weight_decay=self.weight_decay)
        needs_end = self.lr_schedule != "constant"
        scheduler = learning_rate_schedule(
            optimizer,
            self.lr_schedule,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches if needs_end else float("inf"),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning leaves out: random states of every rank, versions and plug-ins, the template."""
        checkpoint["lightning_rlhf"] = {
            "version": __version__,
            "plugins": dict(plugin_manager().versions()),
            "random_states": gathered(_random_state()),
            "template": None if self.template_record is None else self.template_record.to_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the random states for the moment when training goes on, and compares the plug-ins."""
        saved = checkpoint.get("lightning_rlhf", {})
        self._random_states = saved.get("random_states")
        before, now = saved.get("plugins"), dict(plugin_manager().versions())
        if before is not None and before != now:
            changes = [
                f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
                for name in sorted(before.keys() | now.keys())
                if before.get(name) != now.get(name)
            ]
            rank_zero_warn(f"the checkpoint was written with other plug-ins than are installed: {', '.join(changes)}.")

    def on_train_start(self) -> None:
        """Restores the random states of a resumed run: after the loaders were made, before the first batch."""
        if self._random_states is not None and len(self._random_states) == self.trainer.world_size:
            _restore_random_state(self._random_states[self.trainer.global_rank])
        self._random_states = None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the learning rate beside the losses."""
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(member) for member in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(member) for member in value)
    return value is None or isinstance(value, str | int | float)


def _decoder_layers(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer: the members of its module lists."""
    return [block for module in network.modules() if isinstance(module, nn.ModuleList) for block in module]


def _random_state() -> dict[str, Any]:
    """Every generator's state, in types that `weights_only` loading admits."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def gathered(own: Any) -> list[Any]:
    """What every rank gives, in rank order, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone
