"""Sampling responses to any number of prompts, a batch at a time."""

from collections.abc import Sequence

import torch
from torch import nn

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.rollout.generation import generate_responses
from lightning_rlhf.rollout.randomness import random_seed, uniforms
from lightning_rlhf.rollout.responses import length_sorted_chunks
from lightning_rlhf.rollout.sampling import SampledResponses, sample_responses
from lightning_rlhf.rollout.settings import RolloutRuntime, RolloutSettings, progress

__all__ = ["sample_prompts"]


def sample_prompts(
    model: nn.Module,
    prompts: PromptBatch,
    keys: Sequence[int],
    stop_ids: Sequence[int],
    settings: RolloutSettings,
    runtime: RolloutRuntime,
    *,
    seed: int,
    purpose: str,
    iteration: int,
    batch_size: int,
    greedy: bool = False,
) -> SampledResponses:
    """Samples one response per row, `batch_size` rows of similar length at a time.

    Args:
        model: a causal language model of transformers, in eval mode.
        prompts: one row per response, on the CPU.
        keys: keys of the rows' random numbers.
        stop_ids: tokens that end a response.
        settings: hyper-parameters.
        runtime: what the Trainer brings along.
        seed: the run's seed.
        purpose: what the samples are for; different purposes have independent random numbers.
        iteration: iteration of the run.
        batch_size: rows at a time.
        greedy: take the most probable token instead.

    Returns:
        Responses on the CPU, in the order of the prompts.
    """
    device = next(model.parameters()).device
    shape = (len(keys), settings.max_response_length)
    response_ids = torch.zeros(shape, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.bool)
    stopped = torch.zeros(shape[0], dtype=torch.bool)
    with runtime.generation(), runtime.precision(), progress("sampling", shape[0], runtime.show_progress) as bar:
        for chunk in length_sorted_chunks(prompts.prompt_mask.sum(-1).tolist(), batch_size):
            prompt_mask = prompts.prompt_mask[chunk]
            length = int(prompt_mask.sum(-1).max())
            ids, prompt_mask = prompts.prompt_ids[chunk][:, -length:].to(device), prompt_mask[:, -length:].to(device)
            chunk_keys = [keys[row] for row in chunk]
            if settings.sampler == "transformers":
                sampled = generate_responses(
                    model,
                    ids,
                    prompt_mask,
                    seed=random_seed(seed, purpose, iteration, chunk_keys[0]),
                    stop_ids=stop_ids,
                    max_response_length=settings.max_response_length,
                    temperature=settings.temperature,
                    greedy=greedy,
                )
            else:
                sampled = sample_responses(
                    model,
                    ids,
                    prompt_mask,
                    None if greedy else uniforms(seed, purpose, iteration, chunk_keys, settings.max_response_length),
                    stop_ids=stop_ids,
                    max_response_length=settings.max_response_length,
                    temperature=settings.temperature,
                    greedy=greedy,
                )
            response_ids[chunk], mask[chunk], stopped[chunk] = (tensor.cpu() for tensor in sampled)
            bar.update(len(chunk))
    return SampledResponses(response_ids, mask, stopped)
