"""Proximal policy optimization against reward models and reward functions."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_rlhf.arguments import require, require_at_least, require_one_of
from lightning_rlhf.batches import DemonstrationBatch, MinibatchIndices, Rollout
from lightning_rlhf.callbacks import RolloutCallback
from lightning_rlhf.checkpoints.changed_arguments import changed_arguments
from lightning_rlhf.data import PromptDataset
from lightning_rlhf.functional import approx_kl, token_cross_entropy, token_logprobs
from lightning_rlhf.models import (
    LoRA,
    build_actor_critic,
    enable_gradient_checkpointing,
    load_base,
    require_savable_language_model,
    save_language_model,
)
from lightning_rlhf.modules.early_gradients import with_gradients_taken
from lightning_rlhf.modules.invariants import (
    assert_gradients,
    assert_ratio_is_one,
    assert_starts_at_reference,
    tolerance,
)
from lightning_rlhf.modules.kl_controllers import FixedKL, KLController
from lightning_rlhf.modules.on_policy import OnPolicyModule
from lightning_rlhf.modules.optimization import LRSchedule
from lightning_rlhf.modules.policy_update import PolicyUpdate
from lightning_rlhf.modules.scorers import RunScorers
from lightning_rlhf.modules.surroundings import gathered
from lightning_rlhf.plugin_system.interfaces import ModelSource, RankingConverter, RewardFunction
from lightning_rlhf.rollout import (
    CollectedRollout,
    RolloutSettings,
    ScoreNormalizer,
    collect_rollout,
    response_rows,
    select_rows,
    to_rows,
)

__all__ = ["PPOModule"]

ValueModel = Literal["separate", "shared"]


class PPOModule(OnPolicyModule):
    """PPO with a per-token KL penalty to a reference (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022).

    One epoch of the Trainer is one iteration: `rollout_size` prompts are answered and scored, then learned from in
    `num_epochs` passes of minibatches. Data: PromptData.

    Args:
        base: the policy to start from, usually the `model/` of supervised fine-tuning: a model component, a directory,
            a .gguf file or a hub id.
        reward_model: directory or hub id of a reward model, or a list of them.
        rewards: reward functions.
        reward_weights: one weight per scorer, reward models first; default 1 each.
        converter: ranks the K responses of a prompt by their score and puts the converted rewards in its place; needs
            num_responses_per_prompt of at least 2.
        reference: model of the KL penalty; default: `base`.
        adapter: LoRA settings, or null to train all weights. With LoRA one frozen backbone carries policy and value
            adapters and, adapters off, is the reference.
        value_model: separate (starts from the first reward model when the tokenizers are equal, else from `base` with
            a zero head) or shared (a zero head on the policy's trunk).
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more time.
        trust_remote_code: run Python code that comes with a model's directory or hub id.
        merge_adapter: write `model/` with the adapter merged into the weights; otherwise the adapter alone.
        learning_rate: peak learning rate of the policy.
        value_learning_rate: peak learning rate of the value model; default: `learning_rate`.
        weight_decay: decay of weight matrices; biases and norms are not decayed.
        warmup_steps: optimizer steps of linear warm-up.
        lr_schedule: what follows the warm-up; linear and cosine end at zero.
        rollout_size: prompts per iteration and rank.
        num_responses_per_prompt: responses sampled for each prompt.
        max_response_length: tokens at most of a response.
        temperature: of sampling; all log-probabilities are taken at the same one.
        sampler: builtin (samples do not depend on batch cut, ranks or resume) or transformers (`model.generate`).
        minibatch_size: rows per training step and rank; an update takes accumulate_grad_batches of them.
        num_epochs: passes over a rollout.
        kl_coef: starting coefficient of the KL penalty.
        kl_controller: FixedKL or AdaptiveKL(target, horizon).
        target_kl: the passes over a rollout stop when the approximate KL to the sampling policy exceeds it; null =
            never.
        clip_range: of the probability ratio.
        value_clip_range: how far a value may move from the one at sampling.
        value_coef: weight of the value loss.
        gamma: discount.
        gae_lambda: lambda of generalised advantage estimation.
        ptx_coef: weight of the pretraining term on PromptData's `ptx_source`; 0 = off.
        missing_stop_penalty: taken off the score of a response that did not stop.
        mask_unstopped: leave responses that did not stop out of the loss.
        score_normalizer: running normalisation of the weighted sum of scores, or null.
        reward_timeout_s: seconds that a call of a reward function with all responses of a rollout may take before the
            run is stopped; null sets no limit.
    """

    stage: ClassVar[str] = "ppo"
    fixed_arguments = ("value_model",)
    exchangeable_models = ("reference", "reward_model")

    def __init__(
        self,
        base: ModelSource | str,
        # rewards
        reward_model: str | list[str] | None = None,
        rewards: list[RewardFunction] | None = None,
        reward_weights: list[float] | None = None,
        converter: RankingConverter | None = None,
        # models
        reference: ModelSource | str | None = None,
        adapter: LoRA | None = None,
        value_model: ValueModel = "separate",
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        merge_adapter: bool = True,
        # optimizer
        learning_rate: float = 1e-5,
        value_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        lr_schedule: LRSchedule = "linear",
        # rollout
        rollout_size: int = 64,
        num_responses_per_prompt: int = 1,
        max_response_length: int = 64,
        temperature: float = 1.0,
        sampler: Literal["builtin", "transformers"] = "builtin",
        # updates
        minibatch_size: int = 16,
        num_epochs: int = 4,
        kl_coef: float = 0.05,
        kl_controller: KLController | None = None,
        target_kl: float | None = None,
        clip_range: float = 0.2,
        value_clip_range: float = 0.2,
        value_coef: float = 0.1,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        ptx_coef: float = 0.0,
        # scores
        missing_stop_penalty: float = 0.0,
        mask_unstopped: bool = False,
        score_normalizer: ScoreNormalizer | None = None,
        reward_timeout_s: float | None = 3600.0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps, lr_schedule=lr_schedule
        )
        require_at_least(1, rollout_size=rollout_size, minibatch_size=minibatch_size, num_epochs=num_epochs)
        require_at_least(0, kl_coef=kl_coef, ptx_coef=ptx_coef)
        require_at_least(0, value_learning_rate=learning_rate if value_learning_rate is None else value_learning_rate)
        require(target_kl is None or target_kl > 0, "target_kl", "be positive or null", target_kl)
        require_one_of(ValueModel, "value_model", value_model)
        require(
            converter is None or num_responses_per_prompt >= 2,
            "num_responses_per_prompt",
            "be at least 2 with a converter",
            num_responses_per_prompt,
        )
        self.update = PolicyUpdate(clip_range=clip_range, value_clip_range=value_clip_range, value_coef=value_coef)
        self.scorers = RunScorers(
            [reward_model] if isinstance(reward_model, str) else reward_model or [],
            rewards or [],
            weights=reward_weights,
            converter=converter,
            normalizer=score_normalizer,
            timeout_s=reward_timeout_s,
        )
        self.record_arguments()
        self.settings = RolloutSettings(  # which checks its own
            max_response_length=max_response_length,
            temperature=temperature,
            num_responses_per_prompt=num_responses_per_prompt,
            gamma=gamma,
            gae_lambda=gae_lambda,
            missing_stop_penalty=missing_stop_penalty,
            mask_unstopped=mask_unstopped,
            sampler=sampler,
        )
        self.rollout_size = rollout_size
        self.minibatch_size = minibatch_size
        self.num_epochs = num_epochs
        self.kl_coef = kl_coef
        self.kl_controller = kl_controller or FixedKL()
        self.target_kl = target_kl
        self.value_learning_rate = learning_rate if value_learning_rate is None else value_learning_rate
        self.ptx_coef = ptx_coef
        self.merge_adapter = merge_adapter
        self._load_models(base, reference, value_model, adapter, gradient_checkpointing, trust_remote_code)
        self._updates_stopped = False
        self._window_is_empty = False
        self._rollout_metrics: dict[str, float] = {}
        self._check_invariants = False
        self.finish_loading()

    def _load_models(
        self,
        base: ModelSource | str,
        reference: ModelSource | str | None,
        value_model: ValueModel,
        adapter: LoRA | None,
        gradient_checkpointing: bool,
        trust_remote_code: bool,
    ) -> None:
        policy = load_base(base, trust_remote_code=trust_remote_code)
        self.tokenizer, self.recorded_template = policy.tokenizer, policy.template
        self.inputs.remember("base", policy)
        loaded = self.scorers.load(trust_remote_code=trust_remote_code)
        self.has_own_reference = reference is not None
        given = None if reference is None else load_base(reference, trust_remote_code=trust_remote_code)
        if given is not None:
            self.inputs.remember("reference", given)
        for number, source in enumerate(loaded, start=1):
            self.inputs.remember(f"reward_model {number}", source)
        self.actor_critic = build_actor_critic(
            policy,
            reference=given,
            reward_model=loaded[0] if loaded else None,
            value_model=value_model,
            adapter=adapter,
            seed=self.seed,
        )
        if gradient_checkpointing:
            enable_gradient_checkpointing(self.actor_critic)
        self.reward_models = nn.ModuleList(source.model.requires_grad_(False).eval() for source in loaded)

    def networks(self) -> Iterable[nn.Module]:
        """Policy, value model, reference and reward models."""
        return [*self.actor_critic.networks(), *self.reward_models]

    def outputs(self, batch: MinibatchIndices) -> Tensor:
        """Log-probabilities and values of the rows."""
        _, logprobs, values = self._evaluated(batch.rows)
        return torch.cat([logprobs, values()])

    def frozen_networks(self) -> Iterable[nn.Module]:
        """Reference and reward models."""
        reference = self.actor_critic.reference
        return [self.reward_models] if reference is None else [self.reward_models, reference]

    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """Two groups: policy and value."""
        return [
            {"params": self.actor_critic.policy_parameters(), "lr": self.learning_rate, "name": "policy"},
            {"params": self.actor_critic.value_parameters(), "lr": self.value_learning_rate, "name": "value"},
        ]

    def write_model(self, path: Path) -> None:
        """Writes `model/`: the policy, for AutoModelForCausalLM."""
        save_language_model(
            self.actor_critic.policy_for_export(),
            self.tokenizer,
            path,
            self.template_record,
            plugins=self.plugins,
            merge_adapters=self.merge_adapter,
        )

    def require_savable(self) -> None:
        """Tries to merge and convert the policy."""
        require_savable_language_model(self.actor_critic.policy_for_export())

    # Training

    def training_step(self, batch: MinibatchIndices, batch_idx: int) -> Tensor:
        """One minibatch: policy loss + value_coef * value loss [+ ptx_coef * pretraining loss]."""
        if self._updates_stopped:
            return self._untouched()
        rollout, logprobs, values = self._evaluated(batch.rows)
        if self._check_invariants:
            assert_ratio_is_one(logprobs.detach(), rollout.old_logprobs, bound=tolerance(str(self.trainer.precision)))
        if self._exceeds_target_kl(logprobs.detach(), rollout):
            return self._untouched()
        # only `mask_unstopped` can leave a window without a token, and only then the host waits for the number
        self._window_is_empty = self.settings.mask_unstopped and batch.ptx is None and int(batch.num_targets) == 0
        loss = self._taken(self.update.policy_loss(logprobs, rollout, batch.num_targets))
        del logprobs
        loss = loss + self.update.value_loss(values(), rollout, batch.num_targets)
        if batch.ptx is not None:
            ptx_loss = self._taken(self._ptx_loss(batch.ptx))
            self.update.metrics.add(
                "loss/ptx", ptx_loss * batch.ptx.num_targets, (batch.ptx.labels[:, 1:] != -100).sum()
            )
            loss = loss + self.ptx_coef * ptx_loss
        self.window_loss.update(loss)
        return loss * self.loss_scale

    def _evaluated(self, rows: Tensor) -> tuple[Rollout, Tensor, Callable[[], Tensor]]:
        """The minibatch, its log-probabilities under the current weights, and the way to its values, `(B, R)` each."""
        assert self._loader is not None
        assert self._loader.rollout is not None
        if self.settings.num_responses_per_prompt > 1:
            rows = rows.sort().values  # responses of one prompt next to each other, so that they share its pass
        rollout = select_rows(self._loader.rollout, rows)
        inputs = response_rows(
            rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, rollout.completion_mask, device=self.device
        )
        rollout = Rollout(*(tensor.to(self.device) for tensor in rollout))
        logits, values = self.actor_critic.policy_pass(inputs.tokens, inputs.keep)
        logprobs = token_logprobs(logits, inputs.taken_ids, temperature=self.settings.temperature)
        mask = rollout.completion_mask
        return rollout, to_rows(logprobs, mask), lambda: to_rows(values(), mask)

    def _taken(self, loss: Tensor) -> Tensor:
        """A loss of the policy; with adapters its graph is freed before the next pass, which then takes that memory."""
        is_plain = self.is_sharded or self.scales_loss or not loss.requires_grad
        if is_plain or not self.actor_critic.has_small_gradients:
            return loss
        return with_gradients_taken(loss, self.actor_critic.policy_parameters())

    def _ptx_loss(self, batch: DemonstrationBatch) -> Tensor:
        keep = torch.zeros_like(batch.tokens.attention_mask)
        keep[:, :-1] = batch.labels[:, 1:] != -100
        logits = self.actor_critic.logits(batch.tokens, keep)
        return token_cross_entropy(logits, batch.tokens.input_ids[:, 1:][keep[:, :-1]], num_targets=batch.num_targets)

    def _exceeds_target_kl(self, logprobs: Tensor, rollout: Rollout) -> bool:
        """Whether the passes over this rollout end here: decided on the value over all ranks, which stay in step."""
        if self.target_kl is None:
            return False
        count = rollout.loss_mask.sum()
        local = approx_kl(logprobs, rollout.old_logprobs, rollout.loss_mask) * count
        total, num_tokens = self.sum_over_ranks(torch.stack([local.float(), count.float()])).tolist()
        self._updates_stopped = total / max(num_tokens, 1.0) > self.target_kl
        return self._updates_stopped

    def _untouched(self) -> Tensor:
        """A zero loss that touches every trained parameter: wrappers that wait for gradients get them."""
        self.update.skip(self.device)
        parameters = [parameter for group in self.parameter_groups() for parameter in group["params"]]
        own = [parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in parameters]
        return torch.stack([(parameter * 0).sum() for parameter in own if parameter.requires_grad]).sum()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Steps, unless the passes over this rollout were stopped or no token of the window is in the loss.

        Then the window's gradients are dropped.

        The closure runs all the same, so that progress, validation and checkpoints keep their cadence. It runs first,
        because it decides: a step on the zero loss that it returns would still move the weights by Adam's momentum.
        """
        if (self.target_kl is None and not self.settings.mask_unstopped) or optimizer_closure is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return
        result = optimizer_closure()
        if self._updates_stopped or self._window_is_empty:
            optimizer.zero_grad()
            self.window_loss.reset()
            self.window_loss.update(torch.zeros((), device=self.device))
            self.log_step(optimizer)
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, lambda: result)

    def on_after_backward(self) -> None:
        """In the first step: policy and value weights both got a gradient (rule 39)."""
        if self._check_invariants:
            self._check_invariants = False
            assert_gradients(self.actor_critic)

    def on_train_epoch_end(self) -> None:
        """Logs the iteration: rollout and updates."""
        self.log_global(self._rollout_metrics)
        shown = {"score": self._rollout_metrics["objective/scores"], "kl": self._rollout_metrics["objective/kl"]}
        self.log_global(shown, prog_bar=True, logger=False)
        self.log_global(self.update.metrics.take())

    def collected(self, prompts: PromptDataset, iteration: int) -> Rollout:
        """One rollout; the KL coefficient and the metrics move on with it."""
        selection = self._selected(prompts, iteration)
        collected: CollectedRollout = collect_rollout(
            self.actor_critic,
            prompts.batch(selection.row_ids),
            self.score_pipeline(),
            self._formatter,
            self.settings,
            self.rollout_runtime(),
            keys=selection.keys,
            seed=self.seed,
            iteration=iteration,
            kl_coef=self.kl_coef,
            batch_size=prompts.batch_size,
        )
        self.update.metrics.reset()
        statistics = collected.statistics
        self._rollout_metrics = {**statistics.metrics, "objective/kl_coef": self.kl_coef}
        self.kl_coef = self.kl_controller.update(self.kl_coef, kl=statistics.kl, num_sequences=statistics.num_sequences)
        self._updates_stopped = False
        self._check_invariants = self.trainer.global_step == 0
        if self._check_invariants:
            assert_starts_at_reference(
                statistics.kl,
                bound=tolerance(str(self.trainer.precision)) * self.settings.max_response_length,
                reference=self.actor_critic.reference,
                same_weights=not self.has_own_reference,
            )
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutCallback):
                callback.on_rollout_collected(self.trainer, self, collected, iteration)
        return collected.rollout

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an iteration is in the middle of, the KL coefficient and the moments of the scores."""
        super().on_save_checkpoint(checkpoint)
        normalizer = self.scorers.normalizer
        checkpoint["lightning_rlhf"]["ppo"] = {
            "kl_coef": self.kl_coef,
            "updates_stopped": self._updates_stopped,
            "rollout_metrics": self._rollout_metrics,
            "update_metrics": gathered(self.update.metrics.sums()),
            "score_normalizer": None if normalizer is None else normalizer.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with them."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["lightning_rlhf"]["ppo"]
        changed = changed_arguments(checkpoint.get("hyper_parameters", {}), self.hparams)
        if "kl_coef" not in changed and not isinstance(self.kl_controller, FixedKL):
            self.kl_coef = saved["kl_coef"]
        self._updates_stopped = saved["updates_stopped"] and "target_kl" not in changed
        self._rollout_metrics = dict(saved["rollout_metrics"])
        trainer, sums = self._trainer, saved["update_metrics"]
        if trainer is not None and len(sums) == trainer.world_size:  # else it stands at an iteration's end
            self.update.metrics.load_sums(sums[trainer.global_rank])
        if self.inputs.same(checkpoint["lightning_rlhf"].get("models", {}), "reward_model"):
            changed.discard("reward_model")  # the same one lies elsewhere
        self.scorers.resume(saved["score_normalizer"], changed)
