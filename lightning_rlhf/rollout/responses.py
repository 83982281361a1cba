"""Responses as scorers see them: ids and text side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PromptBatch, PromptDetails
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.rollout.sampling import SampledResponses

__all__ = ["Responses", "describe_responses", "length_sorted_chunks", "repeat_prompts"]


@dataclass(frozen=True, slots=True)
class Responses:
    """Sampled responses with their prompts, one entry per row, on the CPU.

    Args:
        prompt_ids: `(B, P)`, left-padded.
        prompt_mask: `(B, P)`, True = keep.
        response_ids: `(B, R)`, as sampled.
        completion_mask: `(B, R)`, True up to and including the stop token.
        stopped: `(B,)`, False where the response was cut at its maximal length.
        prompts: as rendered for the policy.
        messages: the dialogues that the prompts were rendered from.
        columns: the rows' other fields.
        responses: decoded, without special and stop tokens.
        response_tokens: one string per token, the stop token included.
        prefilled: what each prompt wrote in the assistant's name, which the response goes on from; else empty.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    completion_mask: Tensor
    stopped: Tensor
    prompts: list[str]
    messages: list[tuple[Any, ...]]
    columns: list[dict[str, Any]]
    responses: list[str]
    response_tokens: list[list[str]]
    prefilled: list[str]

    def __len__(self) -> int:
        return len(self.responses)

    def select(self, rows: Sequence[int]) -> "Responses":
        """These rows, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.int64)
        return Responses(
            prompt_ids=self.prompt_ids[index],
            prompt_mask=self.prompt_mask[index],
            response_ids=self.response_ids[index],
            completion_mask=self.completion_mask[index],
            stopped=self.stopped[index],
            prompts=[self.prompts[row] for row in rows],
            messages=[self.messages[row] for row in rows],
            columns=[self.columns[row] for row in rows],
            responses=[self.responses[row] for row in rows],
            response_tokens=[self.response_tokens[row] for row in rows],
            prefilled=[self.prefilled[row] for row in rows],
        )


def repeat_prompts(prompts: PromptBatch, repeats: int) -> PromptBatch:
    """Each prompt `repeats` times in a row: prompt 0, prompt 0, prompt 1, prompt 1 for two."""
    if repeats == 1:
        return prompts
    details = prompts.details
    return PromptBatch(
        prompt_ids=prompts.prompt_ids.repeat_interleave(repeats, dim=0),
        prompt_mask=prompts.prompt_mask.repeat_interleave(repeats, dim=0),
        row_ids=prompts.row_ids.repeat_interleave(repeats),
        details=PromptDetails(
            texts=[text for text in details.texts for _ in range(repeats)],
            messages=[messages for messages in details.messages for _ in range(repeats)],
            columns=[columns for columns in details.columns for _ in range(repeats)],
        ),
    )


def describe_responses(prompts: PromptBatch, sampled: SampledResponses, formatter: PromptFormatter) -> Responses:
    """Puts text beside the ids; the ids stay what was sampled.

    Args:
        prompts: one row per response.
        sampled: the responses.
        formatter: the policy's.
    """
    lengths = sampled.completion_mask.sum(-1).tolist()
    ids = [row[:length] for row, length in zip(sampled.response_ids.tolist(), lengths, strict=True)]
    return Responses(
        prompt_ids=prompts.prompt_ids,
        prompt_mask=prompts.prompt_mask,
        response_ids=sampled.response_ids,
        completion_mask=sampled.completion_mask,
        stopped=sampled.stopped,
        prompts=list(prompts.details.texts),
        messages=list(prompts.details.messages),
        columns=list(prompts.details.columns),
        responses=[formatter.decode_response(row) for row in ids],
        response_tokens=[formatter.response_tokens(row) for row in ids],
        prefilled=[formatter.prefilled(text) for text in prompts.details.texts],
    )


def length_sorted_chunks(
    lengths: Sequence[int], chunk_size: int, groups: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Row numbers in chunks of similar length, longest first: little padding, and a lack of memory shows at once.

    Args:
        lengths: of the rows.
        chunk_size: rows per chunk.
        groups: numbers of the groups that rows stay together in; default: each is alone.

    >>> list(length_sorted_chunks([1, 5, 4], 2))
    [[1, 2], [0]]
    >>> list(length_sorted_chunks([1, 5, 4, 2], 2, [0, 0, 1, 1]))
    [[0, 1], [2, 3]]
    """
    numbers = range(len(lengths)) if groups is None else groups
    longest = dict.fromkeys(numbers, 0)
    for number, length in zip(numbers, lengths, strict=True):
        longest[number] = max(longest[number], length)
    order = sorted(range(len(lengths)), key=lambda row: (-longest[numbers[row]], numbers[row]))
    for start in range(0, len(order), chunk_size):
        yield order[start : start + chunk_size]
