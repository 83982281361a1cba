"""A stage and its data, small enough to train in a moment; the tests put this folder on the import path."""

import errno
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset

from lightning_rlhf.errors import ConfigError, DataError, DivergenceError
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, RewardFunction


class StandInBase(L.LightningModule):
    """Base of the stand-ins."""

    stage = "sft"


class StandInStage(StandInBase):
    """A line through points.

    Args:
        base: name of nothing in particular.
        rewards: reward functions that are not called.
        loss: which loss.
        slope: where the line starts.
        fails: what goes wrong, and when.
    """

    def __init__(
        self,
        base: str = "tiny",
        rewards: list[RewardFunction] | None = None,
        loss: Literal["squared", "absolute"] = "squared",
        slope: float = 0.5,
        fails: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.fails = fails
        if fails == "at start":
            raise ConfigError("base must be given, got nothing.")
        if fails == "by a bug":
            raise ZeroDivisionError("a bug in the stage")
        if fails == "by moving":
            os.chdir(os.environ["MOVES_TO"])
        self.line = torch.nn.Linear(1, 1)
        with torch.no_grad():
            self.line.weight.fill_(slope)

    def configure_callbacks(self) -> list[Callback]:
        return []

    def on_train_start(self) -> None:
        if self.fails == "at the start of training":
            raise ConfigError("warmup_steps must be fewer than the run has, got 50.")

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.fails == "in training":
            raise DataError("rows.jsonl:3: a row must have a prompt.")
        if self.fails == "by a bug in training":
            raise ZeroDivisionError("a bug in training")
        if self.fails == "by an interrupt":
            raise KeyboardInterrupt
        if self.fails == "by SIGTERM":
            raise SIGTERMException
        if self.fails == "by diverging":
            raise DivergenceError("the loss must be finite, got nan.")
        if self.fails == "on a full disk":
            raise OSError(errno.ENOSPC, "no space")
        if self.fails == "by a file that is gone":
            raise FileNotFoundError(errno.ENOENT, "no such file", "rows.jsonl")
        loss = (self.line(batch[0]) - 2 * batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        if self.fails == "in validation":
            raise DataError("rows.jsonl:3: a row must have a prompt.")
        self.log("val/loss", (self.line(batch[0]) - 2 * batch[0]).square().mean())

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("test/loss", (self.line(batch[0]) - 2 * batch[0]).square().mean())

    def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> list[dict[str, Any]]:
        return [
            {"x": float(x), "rank": self.global_rank, "y": y}
            for x, y in zip(batch[0], self.line(batch[0]), strict=True)
        ]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class OtherStage(StandInStage):
    """The same with more weights."""

    def __init__(self) -> None:
        super().__init__()
        self.more = torch.nn.Linear(2, 2)


class StandInData(L.LightningDataModule):
    """Points.

    Args:
        template: a template that is not used.
        batch_size: points per step.
        num_points: how many there are.
    """

    def __init__(self, template: PromptTemplate | None = None, batch_size: int = 2, num_points: int = 6) -> None:
        super().__init__()
        self.batch_size, self.num_points = batch_size, num_points

    def _loader(self) -> DataLoader[Any]:
        points = TensorDataset(torch.arange(self.num_points).float().unsqueeze(-1))
        return DataLoader(points, batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader()


class Sloping(RewardFunction):
    """A component of a user's own that checks nothing, and whose author wants no limit by default.

    Args:
        slope: any number.
        limit: any number.
    """

    def __init__(self, slope: float = 1.0, limit: float = math.inf) -> None:
        self.slope, self.limit = slope, limit

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> list[float]:
        return [0.0 for _ in responses]
