"""What the checks look at: the prepared run, and what several of them need of it, made once."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.data import PromptFormatter, RLHFData
from lightning_rlhf.data.collation import collate_prompts
from lightning_rlhf.data.rows import Row, Tally, Tokenization
from lightning_rlhf.data.storage import tokenized_rows
from lightning_rlhf.models import evaluation_mode
from lightning_rlhf.modules import PPOModule, RLHFModule
from lightning_rlhf.rollout.answering import sample_prompts
from lightning_rlhf.rollout.passes import TokenScores, score_tokens
from lightning_rlhf.rollout.responses import Responses, describe_responses
from lightning_rlhf.rollout.sampling import SampledResponses

__all__ = ["RowSample", "Sampled", "Subject"]

_UNLIMITED = 10**9


@dataclass(frozen=True, slots=True)
class RowSample:
    """The first rows of the training split.

    Args:
        rows: as they would be stored, before packing.
        tally: what was left out or cut on the way.
        whole_lengths: tokens of each row if nothing were cut.
    """

    rows: list[Row]
    tally: Tally
    whole_lengths: list[int]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Responses of the untrained policy to the first prompts.

    Args:
        prompts: on the CPU.
        sampled: ids and masks.
        responses: the same with text, as scorers see them.
        scores: what policy, reference and value model say of each token.
    """

    prompts: PromptBatch
    sampled: SampledResponses
    responses: Responses
    scores: TokenScores


class Subject:
    """A run that has not started.

    Args:
        run: module, data and trainer.
        num_rows: rows of the training split that are read at most.
        num_responses: responses that are sampled at most.
    """

    def __init__(self, run: PreparedRun, num_rows: int = 512, num_responses: int = 32) -> None:
        self.run = run
        self.num_rows = num_rows
        self.num_responses = num_responses

    @property
    def stage(self) -> str:
        """Short name of the stage."""
        return self.module.stage

    @property
    def module(self) -> RLHFModule:
        """The module."""
        return self.run.module

    @property
    def ppo(self) -> PPOModule:
        """The module of a PPO run."""
        assert isinstance(self.module, PPOModule)
        return self.module

    @property
    def data(self) -> RLHFData:
        """The data module."""
        return self.run.data

    @property
    def formatter(self) -> PromptFormatter:
        """Template and tokenizer."""
        return self.data.formatter

    @cached_property
    def sample(self) -> RowSample:
        """The first rows, bad ones counted and left out whatever `on_bad_row` says."""
        tally = Tally()
        tokenization = self.data.tokenization
        rows = self._read(tokenization, tally)
        lengths = [tokenization.length(row) for row in self._read(_without_limit(tokenization), Tally())]
        return RowSample(rows, tally, lengths)

    def _read(self, tokenization: Tokenization, tally: Tally) -> list[Row]:
        return list(islice(tokenized_rows(self.data.source, "train", tokenization, "skip", tally), self.num_rows))

    @cached_property
    def sampled(self) -> Sampled:
        """One response to each of the first prompts, as the first rollout would sample it."""
        module, runtime = self.ppo, self.ppo.rollout_runtime()
        rows = self.sample.rows[: self.num_responses]
        prompts = collate_prompts(rows, range(len(rows)))
        size = self.data.batch_size
        with evaluation_mode(module.actor_critic):
            sampled = sample_prompts(
                module.actor_critic.generation_model,
                prompts,
                prompts.row_ids.tolist(),
                self.formatter.stop_ids,
                module.settings,
                runtime,
                seed=module.seed,
                purpose="rollout",
                iteration=0,
                batch_size=size,
            )
            temperature = module.settings.temperature
            scores = score_tokens(
                module.actor_critic, prompts, sampled, temperature=temperature, runtime=runtime, batch_size=size
            )
        return Sampled(prompts, sampled, describe_responses(prompts, sampled, self.formatter), scores)

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """Each scorer's scores `(B,)` of the sampled responses under its name."""
        with torch.no_grad():
            return self.ppo.score_pipeline().weighted(self.sampled.responses).by_scorer


def _without_limit(tokenization: Tokenization) -> Tokenization:
    limit = "max_prompt_length" if hasattr(tokenization, "max_prompt_length") else "max_length"
    unlimited: Any = tokenization
    return replace(unlimited, **{limit: _UNLIMITED})  # type: ignore[no-any-return]
