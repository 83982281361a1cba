"""Several responses to each prompt of a file, numbered, for `predict`."""

from collections.abc import Iterable
from typing import Any

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.models import LanguageModel, evaluation_mode
from lightning_rlhf.rollout.answering import sample_prompts
from lightning_rlhf.rollout.responses import Responses, describe_responses, repeat_prompts
from lightning_rlhf.rollout.settings import RolloutRuntime, RolloutSettings

__all__ = ["answer_prompts", "numbered_rows", "sample_keys"]


def answer_prompts(
    model: LanguageModel,
    prompts: PromptBatch,
    formatter: PromptFormatter,
    settings: RolloutSettings,
    runtime: RolloutRuntime,
    *,
    seed: int,
    greedy: bool = False,
) -> Responses:
    """The responses to each prompt, those of a prompt behind each other.

    Args:
        model: a language model.
        prompts: one row per prompt.
        formatter: template and tokenizer.
        settings: hyper-parameters of sampling.
        runtime: what the Trainer brings along.
        seed: the run's seed.
        greedy: the most probable tokens instead of samples.
    """
    number = settings.num_responses_per_prompt
    on_cpu = PromptBatch(prompts.prompt_ids.cpu(), prompts.prompt_mask.cpu(), prompts.row_ids.cpu(), prompts.details)
    rows = repeat_prompts(on_cpu, number)
    with evaluation_mode(model):
        sampled = sample_prompts(
            model.model,
            rows,
            sample_keys(on_cpu, number),
            formatter.stop_ids,
            settings,
            runtime,
            seed=seed,
            purpose="validation",
            iteration=0,
            batch_size=len(on_cpu.prompt_ids),
            greedy=greedy,
        )
    return describe_responses(rows, sampled, formatter)


def sample_keys(prompts: PromptBatch, number: int) -> list[int]:
    """Keys of the random numbers of a prompt's samples: one is the same however many others there are."""
    return [row + (sample << 40) for row in prompts.row_ids.tolist() for sample in range(number)]


def numbered_rows(rows: Iterable[dict[str, Any]], settings: RolloutSettings) -> list[dict[str, Any]]:
    """Predictions with the number of each among the samples of its prompt, from 1 on, where there are several."""
    number = settings.num_responses_per_prompt
    if number == 1:
        return list(rows)
    return [{"prompt": row["prompt"], "sample": place % number + 1, **row} for place, row in enumerate(rows)]
