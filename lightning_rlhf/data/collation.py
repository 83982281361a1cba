"""Stored rows to the batches of `lightning_rlhf.batches`. Padding has id 0: masks come from lengths, never from ids."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import (
    DemonstrationBatch,
    Prefixes,
    PromptBatch,
    PromptDetails,
    RankingBatch,
    TokenBatch,
    float_bits,
)
from lightning_rlhf.functional import position_ids
from lightning_rlhf.records import Message

__all__ = ["collate_demonstrations", "collate_packed", "collate_prompts", "collate_rankings"]

Rows = Sequence[Mapping[str, Any]]


def collate_demonstrations(rows: Rows) -> DemonstrationBatch:
    """Rows of one document each, padded on the right. The counts are this batch's own."""
    ids, mask = _right_padded([row["input_ids"] for row in rows])
    return _demonstration_batch(rows, TokenBatch(ids, mask, position_ids(mask), right_padded=True))


def collate_packed(rows: Rows) -> DemonstrationBatch:
    """Rows of several documents: positions restart in each, `segment_ids` number them, -1 is padding."""
    ids, mask = _right_padded([row["input_ids"] for row in rows])
    segments = torch.full_like(ids, -1)
    positions = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        lengths = torch.tensor(row["lengths"])
        end = int(lengths.sum())
        segments[index, :end] = torch.arange(len(lengths)).repeat_interleave(lengths)
        starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        positions[index, :end] = torch.arange(end) - starts
    return _demonstration_batch(rows, TokenBatch(ids, mask, positions, segments))


def collate_rankings(rows: Rows) -> RankingBatch:
    """One forward row per candidate, prompt and response after each other; `num_prompts` is this batch's own."""
    num_candidates = max(len(row["candidates"]) for row in rows)
    shape = (len(rows), num_candidates)
    lengths, whole_lengths, ranks = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    rewards, targets = torch.zeros(shape), torch.zeros(shape)
    candidates = torch.zeros(shape, dtype=torch.bool)
    sequences = []
    for index, row in enumerate(rows):
        width = len(row["candidates"])
        mask = torch.tensor(row["candidates"])
        candidates[index, :width] = mask
        whole_lengths[index, :width] = torch.tensor(row["whole_lengths"]) * mask
        ranks[index, :width] = torch.tensor(row["ranks"]) * mask
        rewards[index, :width] = torch.tensor(row["rewards"], dtype=torch.float32) * mask
        targets[index, :width] = torch.tensor(row["targets"], dtype=torch.float32) * mask
        for place, response in enumerate(row["responses"]):
            if row["candidates"][place]:
                lengths[index, place] = len(response)
                sequences.append([*row["prompt_ids"], *response])
    ids, mask = _right_padded(sequences)
    last_positions, prompt_of_row = mask.sum(-1) - 1, candidates.nonzero()[:, 0]
    prefixes = Prefixes(last_positions + 1 - lengths[candidates], prompt_of_row)
    return RankingBatch(
        tokens=TokenBatch(ids, mask, position_ids(mask), prefixes=prefixes, right_padded=True),
        last_positions=last_positions,
        response_lengths=lengths,
        whole_lengths=whole_lengths,
        ranks=ranks,
        reward_bits=float_bits(rewards),
        target_bits=float_bits(targets),
        candidate_mask=candidates,
        num_prompts=_total(rows, "num_prompts"),
    )


def collate_prompts(rows: Rows, row_ids: Sequence[int]) -> PromptBatch:
    """Prompts padded on the left, with their text."""
    flipped, mask = _right_padded([row["prompt_ids"][::-1] for row in rows])
    details = PromptDetails(
        texts=[row["text"] for row in rows],
        messages=[tuple(Message(*turn) for turn in json.loads(row["messages"])) for row in rows],
        columns=[json.loads(row["columns"]) for row in rows],
    )
    return PromptBatch(flipped.flip(-1), mask.flip(-1), torch.tensor(list(row_ids), dtype=torch.int64), details)


def _demonstration_batch(rows: Rows, tokens: TokenBatch) -> DemonstrationBatch:
    supervised, _ = _right_padded([row["supervised"] for row in rows])
    labels = tokens.input_ids.masked_fill(supervised == 0, -100)
    return DemonstrationBatch(tokens, labels, _total(rows, "num_targets"), _total(rows, "num_tokens"))


def _total(rows: Rows, name: str) -> Tensor:
    return torch.tensor(sum(row[name] for row in rows), dtype=torch.int64)


def _right_padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, sequences))
    ids = torch.zeros((len(sequences), length), dtype=torch.int64)
    mask = torch.zeros((len(sequences), length), dtype=torch.bool)
    for index, sequence in enumerate(sequences):
        ids[index, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        mask[index, : len(sequence)] = True
    return ids, mask
