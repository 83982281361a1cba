"""The part of a stage that learns from its own responses: collecting rollouts, and held-out responses."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rlhf.arguments import require
from lightning_rlhf.batches import PromptBatch, Rollout
from lightning_rlhf.callbacks import Sample
from lightning_rlhf.checkpoints.changed_arguments import is_in_epoch
from lightning_rlhf.data import PromptData, PromptDataset, PromptFormatter
from lightning_rlhf.errors import ScorerError
from lightning_rlhf.models import (
    ActorCritic,
    LoadedScalarModel,
)
from lightning_rlhf.modules.base import RLHFModule, named_rows
from lightning_rlhf.modules.heldout import HeldoutResponses
from lightning_rlhf.modules.optimization import LRSchedule
from lightning_rlhf.modules.scorers import RunScorers, Surroundings
from lightning_rlhf.modules.surroundings import gathered
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.rollout import (
    Evaluation,
    PromptSelection,
    RolloutLoader,
    RolloutRuntime,
    RolloutSettings,
    ScorePipeline,
    evaluate_prompts,
    select_prompts,
    select_rows,
)
from lightning_rlhf.rollout.predictions import numbered_rows

__all__ = ["OnPolicyModule"]

_FIXED_IN_ITERATION = ("rollout_size", "num_responses_per_prompt", "temperature", "mask_unstopped")
"""Arguments that the updates on a rollout must have as its collection had them."""


class OnPolicyModule(RLHFModule):
    """Base of stages that sample, score and learn in turns; an epoch of the Trainer is one such iteration.

    Args:
        learning_rate: as for `RLHFModule`.
        weight_decay: as for `RLHFModule`.
        warmup_steps: as for `RLHFModule`.
        lr_schedule: as for `RLHFModule`.
    """

    data = PromptData

    actor_critic: ActorCritic
    scorers: RunScorers
    settings: RolloutSettings
    rollout_size: int
    """Prompts per iteration and rank."""
    minibatch_size: int
    """Rows per training step and rank."""
    num_epochs: int
    """Passes over a rollout."""
    ptx_coef: float
    """Weight of the pretraining term; 0: there is none."""

    def __init__(
        self, *, learning_rate: float, weight_decay: float, warmup_steps: int, lr_schedule: LRSchedule
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps, lr_schedule=lr_schedule
        )
        self.heldout = HeldoutResponses()
        self._loader: RolloutLoader | None = None
        self._prompts: PromptDataset | None = None
        self._pipeline: ScorePipeline | None = None

    def setup(self, stage: str) -> None:
        """Forgets the scorers of another Trainer: they hold its template and precision."""
        super().setup(stage)
        self._pipeline = None

    # Collecting rollouts

    @abstractmethod
    def collected(self, prompts: PromptDataset, iteration: int) -> Rollout:
        """One rollout of this rank, with all that its updates need."""

    def rollout_loader(self, prompts: PromptDataset) -> RolloutLoader:
        """The train dataloader: collects a rollout when it is iterated over, then yields minibatches of indices."""
        trainer = self.trainer
        # before the first rollout: a long prompt may come up in a late one only
        longest = prompts.rows.tally.longest + self.settings.max_response_length
        require(
            self.max_positions is None or longest <= self.max_positions,
            "the longest prompt of the training split and max_response_length together",
            f"fit the model's {self.max_positions} positions",
            f"{longest}. Lower max_prompt_length or max_response_length",
        )
        self._prompts = prompts
        ptx = trainer.datamodule.ptx_batches() if self.ptx_coef else None  # type: ignore[attr-defined]
        require(not self.ptx_coef or ptx is not None, "PromptData", "have a ptx_source when ptx_coef is set", "none")
        if not self.ptx_coef and trainer.datamodule.ptx_source is not None:  # type: ignore[attr-defined]
            rank_zero_warn("ptx_source has rows that nothing is learned from: ptx_coef is 0.")
        self._loader = RolloutLoader(
            lambda iteration: self._collect(prompts, iteration),
            num_rows=self.rollout_size * self.settings.num_responses_per_prompt,
            minibatch_size=self.minibatch_size,
            num_epochs=self.num_epochs,
            accumulate=lambda: trainer.accumulate_grad_batches,
            seed=self.seed,
            next_iteration=lambda: trainer.current_epoch,
            limit=trainer.limit_train_batches,
            reduce=self.sum_over_ranks,
            gather=gathered,
            rank=trainer.global_rank,
            ptx=None if ptx is None else ptx.batch,
            settings={name: self.hparams[name] for name in _FIXED_IN_ITERATION},
            is_in_epoch=lambda: is_in_epoch(trainer),
        )
        return self._loader

    def take_rows_from(self, loader: RolloutLoader) -> None:
        """Training steps take the rows that a minibatch names from this loader's rollout; the Trainer's does it so."""
        self._loader = loader

    def _collect(self, prompts: PromptDataset, iteration: int) -> Rollout:
        """As `collected`.

        Raises:
            ScorerError: a scorer gave something unusable; says in which iteration.
        """
        try:
            return self.collected(prompts, iteration)
        except ScorerError as error:
            when = f"in iteration {iteration}, after {self.trainer.global_step} steps"
            raise ScorerError(f"{error} This was {when}.") from error

    def _selected(self, prompts: PromptDataset, iteration: int) -> PromptSelection:
        return select_prompts(
            self.seed,
            iteration,
            num_prompts=len(prompts),
            rollout_size=self.rollout_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def describe_batch(self, batch_idx: int) -> str:
        """The rows of a minibatch, the first one's prompt and response, and who scored them."""
        loader, prompts = self._loader, self._prompts
        if loader is None or prompts is None or loader.rollout is None:
            return ""
        rows = loader.rows_of(batch_idx)
        row_ids = self._selected(prompts, loader.iteration).row_ids
        places = prompts.rows.places([row_ids[row // self.settings.num_responses_per_prompt] for row in rows])
        first = select_rows(loader.rollout, torch.tensor(rows[:1]))
        prompt = self._formatter.decode(first.prompt_ids[0][first.prompt_mask[0]].tolist())
        response = self._formatter.decode_response(first.response_ids[0][first.completion_mask[0]].tolist())
        return (
            f"{named_rows(places)}, scored by {', '.join(self.score_pipeline().names)}; the first prompt: "
            f"{prompt[-200:]!r}, its response: {response[:200]!r}"
        )

    def rollout_runtime(self) -> RolloutRuntime:
        """What the Trainer brings along to a rollout."""
        return RolloutRuntime(
            precision=self.trainer.precision_plugin.forward_context,
            generation=partial(self.whole_weights, self.actor_critic.policy),
            reduce=lambda total: self.sum_over_ranks(total).cpu(),
            show_progress=self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None,
        )

    @property
    def _formatter(self) -> PromptFormatter:
        formatter: PromptFormatter = self.trainer.datamodule.formatter  # type: ignore[attr-defined]
        return formatter

    def score_pipeline(self) -> ScorePipeline:
        """Reward models, then reward functions; made once, when the data's template is known."""
        if self._pipeline is None:
            self._pipeline = self.scorers.pipeline(self._surroundings())
        return self._pipeline

    def heldout_pipeline(
        self, reward_models: Sequence[LoadedScalarModel], functions: Sequence[RewardFunction]
    ) -> ScorePipeline:
        """Scorers that the policy is not rewarded by, with the surroundings of those that it is."""
        return self.scorers.heldout_pipeline(reward_models, functions, self._surroundings())

    def _surroundings(self) -> Surroundings:
        batch_size: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        return Surroundings(self._formatter, batch_size, self.trainer.precision_plugin.forward_context)

    # Validation, test, predict

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Scores, KL and length of one sampled and one greedy response to each held-out prompt."""
        self._add_heldout(batch, show=batch_idx == 0)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/score`, `val/kl`, `val/response_length` and the like, and the same of greedy responses."""
        self._log_heldout("val")

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """As in validation."""
        self._add_heldout(batch, show=False)

    def on_test_epoch_end(self) -> None:
        """Logs the same metrics under `test/`."""
        self._log_heldout("test")

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """K sampled responses to each prompt, with their scores and KL."""
        evaluation = self._evaluation(batch, greedy=False, num_responses=self.settings.num_responses_per_prompt)
        rows = (
            {
                "prompt": sample.prompt,
                "response": sample.response,
                "score": sample.score,
                "scores": sample.scores,
                "kl": sample.kl,
                "response_length": sample.length,
                "stopped": sample.stopped,
            }
            for sample in evaluation.samples
        )
        return numbered_rows(rows, self.settings)

    def take_samples(self) -> list[Sample]:
        """The samples of the last validation, once."""
        return self.heldout.take_samples()

    def _evaluation(self, batch: PromptBatch, *, greedy: bool, num_responses: int = 1) -> Evaluation:
        on_cpu = PromptBatch(batch.prompt_ids.cpu(), batch.prompt_mask.cpu(), batch.row_ids.cpu(), batch.details)
        return evaluate_prompts(
            self.actor_critic,
            on_cpu,
            self.score_pipeline(),
            self._formatter,
            self.settings,
            self.rollout_runtime(),
            seed=self.seed,
            batch_size=len(batch.prompt_ids),
            greedy=greedy,
            num_responses=num_responses,
        )

    def _add_heldout(self, batch: PromptBatch, *, show: bool) -> None:
        sampled, greedy = (self._evaluation(batch, greedy=greedy) for greedy in (False, True))
        self.heldout.add(sampled, greedy, self.device, show=show)

    def _log_heldout(self, split: str) -> None:
        for name, value in self.heldout.means.take().items():
            self.log_global({f"{split}/{name}": value}, prog_bar=name in ("score", "kl"))
