"""One rollout: sample, score, shape, whiten."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.batches import PromptBatch, Rollout
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import ScorerError
from lightning_rlhf.functional import generalized_advantage_estimation, kl_k1, masked_whiten, shape_rewards
from lightning_rlhf.models import ActorCritic, evaluation_mode
from lightning_rlhf.rollout.answering import sample_prompts
from lightning_rlhf.rollout.normalization import global_moments
from lightning_rlhf.rollout.passes import score_tokens
from lightning_rlhf.rollout.repetition import distinct_2
from lightning_rlhf.rollout.responses import Responses, describe_responses, repeat_prompts
from lightning_rlhf.rollout.sampling import SampledResponses
from lightning_rlhf.rollout.scoring import (
    ScorePipeline,
    Scores,
    converted_scores,
    is_rated,
    total_scores,
    with_total,
)
from lightning_rlhf.rollout.settings import RolloutRuntime, RolloutSettings

__all__ = ["CollectedRollout", "RolloutSample", "RolloutStatistics", "collect_rollout", "rollout_samples"]


_GREATEST_REWARD = 1e15
"""Value losses square it, and Adam squares their gradients: fp32 ends at 3e38."""


@dataclass(frozen=True, slots=True)
class RolloutStatistics:
    """What is logged of a rollout, over all ranks.

    Args:
        kl: mean over responses of the sum over tokens of k1, nats.
        num_sequences: responses.
        metrics: every number under the name that it is logged under.
    """

    kl: float
    num_sequences: int
    metrics: dict[str, float]


class RolloutSample(NamedTuple):
    """One response to show."""

    prompt: str
    response: str
    scores: dict[str, float]
    """Per scorer that applied to it, under its own name."""
    score: float
    """What the policy is rewarded with, before the KL penalty."""
    kl: float
    """Sum over tokens of k1, nats."""
    length: int
    stopped: bool


class CollectedRollout(NamedTuple):
    """A rollout and what there is to say about it."""

    rollout: Rollout
    statistics: RolloutStatistics
    samples: list[RolloutSample]
    """This rank's responses in the order of the prompts."""
    token_rewards: Tensor
    """`(B, R)`: what the returns are sums of, the KL penalty included."""
    responses: Responses
    """This rank's responses as scorers see them."""


def collect_rollout(
    actor_critic: ActorCritic,
    prompts: PromptBatch,
    pipeline: ScorePipeline,
    formatter: PromptFormatter,
    settings: RolloutSettings,
    runtime: RolloutRuntime,
    *,
    keys: Sequence[int] | None = None,
    seed: int,
    iteration: int,
    kl_coef: float,
    batch_size: int,
) -> CollectedRollout:
    """Collects one rollout: responses, their scores, and the advantages that the update learns from.

    Args:
        actor_critic: policy, value model and reference.
        prompts: this rank's prompts of the iteration.
        pipeline: the scorers.
        formatter: the policy's template and tokenizer.
        settings: hyper-parameters.
        runtime: what the Trainer brings along.
        keys: keys of the prompts' random numbers, see `select_prompts`; default: their row ids.
        seed: the run's seed.
        iteration: iteration of the run, 0 or more.
        kl_coef: coefficient of the KL penalty.
        batch_size: rows sampled or scored at a time: memory only.

    Returns:
        The rollout, on the CPU, the K responses of a prompt next to each other; statistics over all ranks; samples.

    Raises:
        ScorerError: a scorer returned something unusable.
        ConfigError: prompts or settings do not fit the model.
    """
    num_responses = settings.num_responses_per_prompt
    prompt_keys = prompts.row_ids.tolist() if keys is None else list(keys)
    response_keys = [key * num_responses + index for key in prompt_keys for index in range(num_responses)]
    repeated = repeat_prompts(prompts, num_responses)
    with evaluation_mode(actor_critic):
        sampled = sample_prompts(
            actor_critic.generation_model,
            repeated,
            response_keys,
            formatter.stop_ids,
            settings,
            runtime,
            seed=seed,
            purpose="rollout",
            iteration=iteration,
            batch_size=batch_size,
        )
        sampled = _trimmed(sampled)
        passed = score_tokens(
            actor_critic, repeated, sampled, temperature=settings.temperature, runtime=runtime, batch_size=batch_size
        )
    responses = describe_responses(repeated, sampled, formatter)
    scored = pipeline.weighted(responses)
    kept = sampled.stopped if settings.mask_unstopped else torch.ones_like(sampled.stopped)
    scores = _rewarded(pipeline, scored, sampled, kept, settings, runtime)

    kl = kl_k1(passed.logprobs, passed.ref_logprobs)
    token_rewards = shape_rewards(scores, kl, sampled.completion_mask, kl_coef=kl_coef)
    _require_learnable(token_rewards, scored, pipeline.weights)
    advantages, returns = generalized_advantage_estimation(
        token_rewards, passed.values, sampled.completion_mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda
    )
    loss_mask = sampled.completion_mask & kept[:, None]
    _, mean, variance = global_moments(advantages, loss_mask, runtime.reduce)
    rollout = Rollout(
        prompt_ids=repeated.prompt_ids,
        prompt_mask=repeated.prompt_mask,
        response_ids=sampled.response_ids,
        completion_mask=sampled.completion_mask,
        loss_mask=loss_mask,
        old_logprobs=passed.logprobs,
        ref_logprobs=passed.ref_logprobs,
        old_values=passed.values,
        advantages=masked_whiten(advantages, loss_mask, mean=mean, variance=variance),
        returns=returns,
    )
    sequence_kl, totals = kl.sum(-1), total_scores(scores)
    statistics = _statistics(
        {
            "objective/kl": sequence_kl,
            "objective/entropy": passed.entropy.sum(-1),
            "objective/scores": totals,
            "objective/rlhf_reward": totals - kl_coef * sequence_kl,
            "rollout/response_length": sampled.completion_mask.sum(-1),
            "rollout/stop_rate": sampled.stopped,
            "rollout/masked_rate": ~kept,
            "rollout/distinct_2": distinct_2(sampled.response_ids, sampled.completion_mask),
        },
        scored.by_scorer,
        runtime,
    )
    statistics.metrics["value/explained_variance"] = _explained_variance(rollout, runtime)
    _, _, variance = global_moments(scored.totals, torch.ones_like(kept), runtime.reduce)
    statistics.metrics["objective/score_deviation"] = variance**0.5
    samples = rollout_samples(responses, scored, totals, sequence_kl)
    return CollectedRollout(rollout, statistics, samples, token_rewards, responses)


def _trimmed(sampled: SampledResponses) -> SampledResponses:
    """Cut to the longest response that was sampled."""
    length = int(sampled.completion_mask.sum(-1).max())
    return SampledResponses(sampled.response_ids[:, :length], sampled.completion_mask[:, :length], sampled.stopped)


def _rewarded(
    pipeline: ScorePipeline,
    scored: Scores,
    sampled: SampledResponses,
    kept: Tensor,
    settings: RolloutSettings,
    runtime: RolloutRuntime,
) -> Tensor:
    """The scores that the policy is rewarded with: converted, normalised, then reduced where the stop is missing."""
    scores = scored.scores
    if pipeline.converter is not None:
        scores = converted_scores(scored.totals, pipeline.converter, settings.num_responses_per_prompt)
    if pipeline.normalizer is not None:
        totals = total_scores(scores)
        pipeline.normalizer.update(totals, kept, runtime.reduce)
        scores = with_total(scores, pipeline.normalizer.normalize(totals), sampled.completion_mask)
    if settings.missing_stop_penalty:
        totals = total_scores(scores) - settings.missing_stop_penalty * ~sampled.stopped
        scores = with_total(scores, totals, sampled.completion_mask)
    return scores


def _require_learnable(token_rewards: Tensor, scored: Scores, weights: Sequence[float]) -> None:
    """Refuses rewards of a size at which squared errors and squared gradients are no numbers any more.

    Raises:
        ScorerError: a reward is such; names the scorer that weighs most.
    """
    largest = float(token_rewards.abs().max())
    if not largest < _GREATEST_REWARD:
        shares = [
            (abs(weight) * float(scores.abs().max()), name)
            for weight, (name, scores) in zip(weights, scored.by_scorer.items(), strict=True)
        ]
        raise ScorerError(
            f"a reward must be below {_GREATEST_REWARD:.0e} to be learned from, got one of {largest:.1e}, most of it "
            f"from {max(shares)[1]!r}. Scale its scores, lower its weight in reward_weights, or use score_normalizer."
        )


def _statistics(columns: dict[str, Tensor], by_scorer: dict[str, Tensor], runtime: RolloutRuntime) -> RolloutStatistics:
    """Means over the responses of all ranks, in one reduction; of a scorer's over those that it applied to."""
    number = len(next(iter(columns.values())))
    rated = [scores[is_rated(scores)] for scores in by_scorer.values()]
    counts = torch.tensor([number, *map(len, rated)], dtype=torch.float64)
    sums = torch.stack([column.double().sum() for column in (*columns.values(), *rated)])
    reduced = runtime.reduce(torch.cat([counts, sums])).tolist()
    num_sequences, *num_rated = reduced[: len(counts)]
    totals = reduced[len(counts) :]
    metrics = {name: total / num_sequences for name, total in zip(columns, totals, strict=False)}
    for name, count, total in zip(by_scorer, num_rated, totals[len(columns) :], strict=True):
        if count:
            metrics[f"scores/{name}"] = total / count
        if count < num_sequences:
            metrics[f"scores/{name}_rated_share"] = count / num_sequences
    return RolloutStatistics(kl=metrics["objective/kl"], num_sequences=round(num_sequences), metrics=metrics)


def _explained_variance(rollout: Rollout, runtime: RolloutRuntime) -> float:
    """`1 - Var(R - V) / Var(R)` over the tokens of all ranks; 0 where the returns do not vary."""
    _, _, variance = global_moments(rollout.returns, rollout.completion_mask, runtime.reduce)
    _, _, left = global_moments(rollout.returns - rollout.old_values, rollout.completion_mask, runtime.reduce)
    return 1 - left / variance if variance > 0 else 0.0


def rollout_samples(responses: Responses, scored: Scores, scores: Tensor, kl: Tensor) -> list[RolloutSample]:
    """What there is to show of each response.

    Args:
        responses: the responses.
        scored: what the scorers said.
        scores: what the policy is rewarded with, `(B,)`.
        kl: to the reference, `(B,)`.
    """
    lengths = responses.completion_mask.sum(-1).tolist()
    columns = {name: values.tolist() for name, values in scored.by_scorer.items()}
    return [
        RolloutSample(
            prompt=responses.prompts[row],
            response=responses.responses[row],
            scores={name: values[row] for name, values in columns.items() if not math.isnan(values[row])},
            score=float(scores[row]),
            kl=float(kl[row]),
            length=lengths[row],
            stopped=bool(responses.stopped[row]),
        )
        for row in range(len(responses))
    ]
