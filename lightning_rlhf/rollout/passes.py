"""Prompt and response as one row: what the scoring passes of the rollout and the passes of the update share.

Both go through here, so that with unchanged weights the ratio of new to old probabilities is one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.batches import Prefixes, PromptBatch, TokenBatch
from lightning_rlhf.functional import position_ids, token_entropy, token_logprobs
from lightning_rlhf.models import ActorCritic
from lightning_rlhf.rollout.responses import length_sorted_chunks
from lightning_rlhf.rollout.sampling import SampledResponses, prompt_numbers
from lightning_rlhf.rollout.settings import RolloutRuntime, progress

__all__ = [
    "PolicyOutputs",
    "ResponseRows",
    "TokenScores",
    "policy_outputs",
    "reference_logprobs",
    "response_rows",
    "score_tokens",
    "to_rows",
]


class ResponseRows(NamedTuple):
    """Prompts with their responses, trimmed to what the longest rows need. `N` response tokens in all, row by row."""

    tokens: TokenBatch
    keep: Tensor
    """`(B, T)`: the positions that predict a response token; the values are read there too."""
    taken_ids: Tensor
    """`(N,)`: the response tokens, in the order in which `keep` is True."""


class PolicyOutputs(NamedTuple):
    """What policy and value model say of each response token: `(N,)` each, in the order of `taken_ids`."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


class TokenScores(NamedTuple):
    """What the models say of sampled responses: `(B, R)` each, fp32 on the CPU, 0 outside the completion mask."""

    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor


def response_rows(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    completion_mask: Tensor,
    *,
    device: torch.device | None = None,
) -> ResponseRows:
    """Joins left-padded prompts and right-padded responses by their ids; nothing is tokenized anew.

    Neighbouring rows of equal prompts share them, less the last token, at which the first response token is predicted.

    Args:
        prompt_ids: `(B, P)`, left-padded.
        prompt_mask: `(B, P)`, True = keep.
        response_ids: `(B, R)`, right-padded.
        completion_mask: `(B, R)`, True up to and including the stop token.
        device: where the rows are needed; default: where they are.
    """
    prompt_length = max(int(prompt_mask.sum(-1).max()), 1)
    response_length = max(int(completion_mask.sum(-1).max()), 1)
    prompt_ids, prompt_mask = prompt_ids[:, -prompt_length:], prompt_mask[:, -prompt_length:]
    response_ids, completion_mask = response_ids[:, :response_length], completion_mask[:, :response_length]
    mask = torch.cat([prompt_mask, completion_mask], dim=1)
    keep = torch.zeros_like(mask)
    keep[:, prompt_length - 1 : -1] = completion_mask
    tokens = TokenBatch(
        input_ids=torch.cat([prompt_ids, response_ids], dim=1).masked_fill(~mask, 0).to(device),
        attention_mask=mask.to(device),
        position_ids=position_ids(mask).to(device),
        prefixes=_shared_prompts(prompt_ids, prompt_mask, device),
        right_padded=bool(prompt_mask[:, 0].all()),
    )
    return ResponseRows(tokens, keep.to(device), response_ids[completion_mask].to(device))


def _shared_prompts(prompt_ids: Tensor, prompt_mask: Tensor, device: torch.device | None) -> Prefixes | None:
    numbers = prompt_numbers(prompt_ids, prompt_mask)
    if int(numbers[-1]) + 1 == len(numbers):
        return None
    return Prefixes((prompt_mask.sum(-1) - 1).to(device), numbers.to(device))


def policy_outputs(actor_critic: ActorCritic, rows: ResponseRows, *, temperature: float) -> PolicyOutputs:
    """One pass of policy and value model; gradients flow where they are enabled.

    Args:
        actor_critic: the models.
        rows: prompts with their responses.
        temperature: the one that the responses were sampled with.
    """
    logits, values = actor_critic.logits_and_values(rows.tokens, rows.keep)
    return PolicyOutputs(
        logprobs=token_logprobs(logits, rows.taken_ids, temperature=temperature),
        entropy=token_entropy(logits.detach(), temperature=temperature),
        values=values,
    )


def reference_logprobs(actor_critic: ActorCritic, rows: ResponseRows, *, temperature: float) -> Tensor:
    """Log-probabilities of the response tokens under the frozen reference, without gradient.

    Args:
        actor_critic: the models.
        rows: prompts with their responses.
        temperature: the one that the responses were sampled with.
    """
    with torch.no_grad():
        logits = actor_critic.reference_logits(rows.tokens, rows.keep)
        return token_logprobs(logits, rows.taken_ids, temperature=temperature)


@torch.no_grad()
def score_tokens(
    actor_critic: ActorCritic,
    prompts: PromptBatch,
    sampled: SampledResponses,
    *,
    temperature: float,
    runtime: RolloutRuntime,
    batch_size: int,
) -> TokenScores:
    """Policy, reference and value model on sampled responses, `batch_size` rows of similar length at a time.

    Args:
        actor_critic: the models, in eval mode.
        prompts: one row per response, on the CPU.
        sampled: the responses, on the CPU.
        temperature: the one that they were sampled with.
        runtime: what the Trainer brings along.
        batch_size: rows at a time.

    Returns:
        In the order of the prompts.
    """
    mask = sampled.completion_mask
    scores = TokenScores(*(torch.zeros(mask.shape, dtype=torch.float32) for _ in TokenScores._fields))
    device = next(actor_critic.parameters()).device
    lengths = (prompts.prompt_mask.sum(-1) + mask.sum(-1)).tolist()
    groups = prompt_numbers(prompts.prompt_ids, prompts.prompt_mask).tolist()
    with progress("scoring", len(lengths), runtime.show_progress) as bar:
        for chunk in length_sorted_chunks(lengths, batch_size, groups):
            rows = response_rows(
                prompts.prompt_ids[chunk],
                prompts.prompt_mask[chunk],
                sampled.response_ids[chunk],
                mask[chunk],
                device=device,
            )
            with runtime.precision():
                outputs = policy_outputs(actor_critic, rows, temperature=temperature)
                ref_logprobs = reference_logprobs(actor_critic, rows, temperature=temperature)
            flat = TokenScores(outputs.logprobs, ref_logprobs, outputs.values, outputs.entropy)
            for whole, part in zip(scores, flat, strict=True):
                whole[chunk] = to_rows(part.float().cpu(), mask[chunk])
            bar.update(len(chunk))
    return scores


def to_rows(flat: Tensor, completion_mask: Tensor) -> Tensor:
    """Puts one number per response token back in its row, 0 elsewhere; gradients flow.

    Args:
        flat: `(N,)`, row by row.
        completion_mask: `(B, R)`, with N True entries.

    Returns:
        `(B, R)`.

    >>> to_rows(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[True, False], [True, True]])).tolist()
    [[1.0, 0.0], [2.0, 3.0]]
    """
    return flat.new_zeros(completion_mask.shape).masked_scatter(completion_mask, flat)
