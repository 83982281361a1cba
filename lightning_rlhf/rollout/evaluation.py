"""Validation: what the policy answers to held-out prompts, and what that is worth."""

from typing import NamedTuple

from torch import Tensor

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.functional import kl_k1
from lightning_rlhf.models import ActorCritic, evaluation_mode
from lightning_rlhf.rollout.answering import sample_prompts
from lightning_rlhf.rollout.collection import RolloutSample, rollout_samples
from lightning_rlhf.rollout.passes import score_tokens
from lightning_rlhf.rollout.predictions import sample_keys
from lightning_rlhf.rollout.repetition import distinct_2
from lightning_rlhf.rollout.responses import describe_responses, repeat_prompts
from lightning_rlhf.rollout.scoring import ScorePipeline, is_rated
from lightning_rlhf.rollout.settings import RolloutRuntime, RolloutSettings

__all__ = ["Evaluation", "evaluate_prompts"]


class Evaluation(NamedTuple):
    """Measurements of one response per prompt, per row, so that means do not depend on how prompts are batched."""

    columns: dict[str, Tensor]
    """`(B,)` each, fp32 on the CPU: `score` (weighted sum, unconverted and without penalty), `kl`, `response_length`,
    `stop_rate`, `distinct_2`, and `scores/<name>` of every scorer, there of the responses that it applied to."""
    samples: list[RolloutSample]


def evaluate_prompts(
    actor_critic: ActorCritic,
    prompts: PromptBatch,
    pipeline: ScorePipeline,
    formatter: PromptFormatter,
    settings: RolloutSettings,
    runtime: RolloutRuntime,
    *,
    seed: int,
    batch_size: int | None = None,
    greedy: bool = False,
    num_responses: int = 1,
) -> Evaluation:
    """Answers held-out prompts and measures the responses.

    The random numbers are the same at every call, so that two validations differ by the policy alone.

    Args:
        actor_critic: policy and reference.
        prompts: held-out prompts, on the CPU.
        pipeline: the scorers.
        formatter: the policy's template and tokenizer.
        settings: hyper-parameters of sampling.
        runtime: what the Trainer brings along.
        seed: the run's seed.
        batch_size: rows at a time; default: all.
        greedy: the most probable token instead of a sample.
        num_responses: to each prompt, behind each other.
    """
    size = len(prompts.prompt_ids) if batch_size is None else batch_size
    keys = sample_keys(prompts, num_responses)
    prompts = repeat_prompts(prompts, num_responses)
    with evaluation_mode(actor_critic):
        sampled = sample_prompts(
            actor_critic.generation_model,
            prompts,
            keys,
            formatter.stop_ids,
            settings,
            runtime,
            seed=seed,
            purpose="validation",
            iteration=0,
            batch_size=size,
            greedy=greedy,
        )
        passed = score_tokens(
            actor_critic, prompts, sampled, temperature=settings.temperature, runtime=runtime, batch_size=size
        )
    responses = describe_responses(prompts, sampled, formatter)
    scored = pipeline.weighted(responses)
    kl = kl_k1(passed.logprobs, passed.ref_logprobs).sum(-1)
    columns = {
        "score": scored.totals.float(),
        "kl": kl,
        "response_length": sampled.completion_mask.sum(-1).float(),
        "stop_rate": sampled.stopped.float(),
        "distinct_2": distinct_2(sampled.response_ids, sampled.completion_mask),
        **{f"scores/{name}": scores[is_rated(scores)].float() for name, scores in scored.by_scorer.items()},
    }
    return Evaluation(columns, rollout_samples(responses, scored, scored.totals, kl))
