"""Small data, small models and a quiet Trainer, so that whole stages run in a second."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.data import DemonstrationData, PromptData, RankingData
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import PPOModule, RewardModule, SFTModule
from lightning_rlhf.plugin_system.interfaces import DataSource, RewardFunction
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            # lightning's use of torch, and its advice to runs that are resumed and save nothing
            item.add_marker(pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"))


class Demonstrations(DataSource):
    """Rows of unequal lengths."""

    def __init__(self, train: int = 12, validation: int = 3) -> None:
        self.sizes = {"train": train, "validation": validation, "test": 2}

    def load(self, split: str) -> list[Demonstration]:
        return [
            Demonstration((Message("user", f"say {row}\n"), Message("assistant", "ab" * (1 + row % 5))))
            for row in range(self.sizes[split])
        ]


class Rankings(DataSource):
    """Two or three candidates; some tie, some are unranked."""

    def __init__(self, train: int = 12, validation: int = 4) -> None:
        self.sizes = {"train": train, "validation": validation, "test": 2}

    def load(self, split: str) -> list[Ranking]:
        return [
            Ranking(
                f"say {row}\n",
                ("a" * (1 + row % 5), "b" * (1 + row % 3), "cc"),
                ((0, 1, (2, None, 1)[row % 3]),),
            )
            for row in range(self.sizes[split])
        ]


class Prompts(DataSource):
    """Prompts with a column."""

    def __init__(self, train: int = 12, validation: int = 3) -> None:
        self.sizes = {"train": train, "validation": validation, "test": 2}

    def load(self, split: str) -> list[Prompt]:
        return [Prompt(f"say {row}\n", {"number": row}) for row in range(self.sizes[split])]


class LowerCase(RewardFunction):
    """Share of lower-case letters in a response."""

    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        return [sum(map(str.islower, response)) / (1 + len(response)) for response in responses]


class Kit:
    """What the tests build their runs from."""

    Demonstrations, Rankings, Prompts, LowerCase, LoRA = Demonstrations, Rankings, Prompts, LowerCase, LoRA

    @staticmethod
    def model(**options: Any) -> TinyModel:
        return TinyModel(**{"hidden_size": 16, "num_layers": 1, "num_heads": 2, **options})

    def sft(self, batch_size: int = 4, data: dict[str, Any] | None = None, **options: Any) -> Any:
        options = {"base": self.model(), "learning_rate": 1e-2, "max_response_length": 4, **options}
        return SFTModule(**options), DemonstrationData(
            **{"source": Demonstrations(), "batch_size": batch_size} | (data or {})
        )

    def reward(self, batch_size: int = 4, data: dict[str, Any] | None = None, **options: Any) -> Any:
        options = {"base": self.model(), "learning_rate": 1e-2, **options}
        return RewardModule(**options), RankingData(**{"source": Rankings(), "batch_size": batch_size} | (data or {}))

    def ppo(self, batch_size: int = 4, data: dict[str, Any] | None = None, **options: Any) -> Any:
        defaults = {
            "base": self.model(),
            "rollout_size": 8,
            "minibatch_size": 4,
            "num_epochs": 2,
            "max_response_length": 6,
            "learning_rate": 1e-2,
        }
        if "reward_model" not in options:
            defaults["rewards"] = [LowerCase()]
        return PPOModule(**defaults | options), PromptData(
            **{"source": Prompts(), "batch_size": batch_size} | (data or {})
        )

    def stage(self, name: str, **options: Any) -> Any:
        build: Callable[..., Any] = getattr(self, name)
        return build(**options)

    @staticmethod
    def trainer(path: Path, **options: Any) -> L.Trainer:
        defaults: dict[str, Any] = {
            "default_root_dir": path,
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        }
        return L.Trainer(**defaults | options)

    def fit(self, run: Any, path: Path, *, ckpt_path: Path | None = None, seed: int = 1, **options: Any) -> L.Trainer:
        L.seed_everything(seed, verbose=False)
        trainer = self.trainer(path, **options)
        trainer.fit(*run, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        return trainer

    def logged(self, build: Callable[[], Any], path: Path, **options: Any) -> Any:
        """A run with a CSV logger: its module and the logged rows by step."""
        L.seed_everything(1, verbose=False)
        run = build()
        logger = CSVLogger(path, name="", version="", flush_logs_every_n_steps=1)
        self.fit(run, path, logger=logger, **options)
        with (path / "metrics.csv").open() as lines:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(lines)]
        return run[0], rows

    @staticmethod
    def every_step(path: Path, steps: int = 1) -> ModelCheckpoint:
        return ModelCheckpoint(path, save_top_k=-1, filename="{step}", every_n_train_steps=steps)

    @staticmethod
    def gradients(build: Callable[[], Any], path: Path, **options: Any) -> list[dict[str, torch.Tensor]]:
        """The gradients of every optimizer step of a run."""
        recorder = _Gradients()
        L.seed_everything(1, verbose=False)
        Kit().fit(build(), path, callbacks=[recorder], limit_val_batches=0, **options)
        return recorder.steps


class _Gradients(L.Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.steps.append({name: weight.grad.clone() for name, weight in named if weight.grad is not None})


@pytest.fixture
def kit() -> Kit:
    L.seed_everything(1, verbose=False)
    return Kit()
