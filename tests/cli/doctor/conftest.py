"""Healthy runs of each stage that have not started, with a place to plant a defect in each part."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.cli.doctor.check import Check, CheckResult, examine
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.cli.prepared import Placement, attached
from lightning_rlhf.data import DemonstrationData, PromptData, RankingData
from lightning_rlhf.modules import PPOModule, RewardModule, SFTModule
from lightning_rlhf.plugin_system.interfaces import DataSource, ModelSource, PromptTemplate, RewardFunction, Segment
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking


class Records(DataSource):
    """Records of a list, all of the training split."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = records

    def load(self, split: str) -> Sequence[Any]:
        return self.records if split == "train" else []


class Altered(ModelSource):
    """A tiny model after something was done to it or its tokenizer; it ends a third of its responses early."""

    def __init__(self, alter: Callable[[Any, Any], Any] | None = None, stop_logit: float = 4.5, **size: Any) -> None:
        self.alter = alter
        self.stop_logit = stop_logit
        self.size = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, **size}

    def load(self) -> tuple[Any, Any]:
        model, tokenizer = TinyModel(**self.size).load()
        head = nn.Linear(model.config.hidden_size, model.config.vocab_size)
        with torch.no_grad():
            head.weight.copy_(model.lm_head.weight)
            head.bias.zero_()[tokenizer.eos_token_id] = self.stop_logit
        model.lm_head = head
        if self.alter is not None:
            self.alter(model, tokenizer)
        return model, tokenizer


class Written(PromptTemplate):
    """A template of segments that a function writes."""

    def __init__(self, write: Callable[[int, Message], list[Segment]], stop: tuple[str, ...] = ()) -> None:
        self.write = write
        self.stop = stop

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        return [segment for place, message in enumerate(messages) for segment in self.write(place, message)]


class Scored(RewardFunction):
    """Scores by a function of a response."""

    def __init__(self, function: Callable[[str], float]) -> None:
        self.function = function

    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        return [self.function(response) for response in responses]


def letters(response: str) -> float:
    return sum(map(ord, response)) % 7 / 7


def demonstrations(number: int = 12) -> list[Demonstration]:
    return [
        Demonstration((Message("user", f"say {i}\n"), Message("assistant", "ab" * (1 + i % 5)))) for i in range(number)
    ]


def rankings(number: int = 12) -> list[Ranking]:
    """As often the longer as the shorter one is better."""
    return [Ranking(f"say {i}\n", ("a" * 3, "b" * 5), (i % 2, 1 - i % 2)) for i in range(number)]


def prompts(number: int = 24) -> list[Prompt]:
    return [Prompt(f"say {i}\n") for i in range(number)]


class Kit:
    """Builds subjects."""

    Altered, Records, Scored, Written = Altered, Records, Scored, Written
    demonstrations, rankings, prompts = staticmethod(demonstrations), staticmethod(rankings), staticmethod(prompts)

    def subject(
        self,
        stage: str,
        *,
        data: dict[str, Any] | None = None,
        placement: Placement | None = None,
        trainer: dict[str, Any] | None = None,
        **options: Any,
    ) -> Subject:
        modules = {"sft": SFTModule, "reward": RewardModule, "ppo": PPOModule}
        datas = {"sft": DemonstrationData, "reward": RankingData, "ppo": PromptData}
        records = {"sft": demonstrations, "reward": rankings, "ppo": prompts}
        if stage == "ppo":
            options = {"max_response_length": 12, "minibatch_size": 6, "rewards": [Scored(letters)]} | options
        module = modules[stage](**{"base": Altered()} | options)
        made = datas[stage](**{"source": Records(records[stage]()), "batch_size": 4} | (data or {}))
        quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        quiet |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
        run = attached(module, made, L.Trainer(**quiet | (trainer or {})), placement or Placement("auto", 1, 1))
        return Subject(run, num_rows=64, num_responses=24)

    @staticmethod
    def results(check: Check, subject: Subject) -> list[CheckResult]:
        return list(examine(subject, [check]))

    def statuses(self, check: Check, subject: Subject) -> list[str]:
        return [str(result.status) for result in self.results(check, subject)]

    def only(self, check: Check, subject: Subject) -> CheckResult:
        (result,) = self.results(check, subject)
        return result


@pytest.fixture
def kit() -> Kit:
    L.seed_everything(1, verbose=False)
    return Kit()


@pytest.fixture
def segments() -> SimpleNamespace:
    """Segments of a plain template, to be written otherwise."""

    def plain(place: int, message: Message) -> list[Segment]:
        return [Segment(message.content, message.role == "assistant")]

    return SimpleNamespace(plain=plain)
