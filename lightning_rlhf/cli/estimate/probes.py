"""The parts of a step as work that can be done for any number of rows: small here, as large as the run's by arithmetic.

Rows are copies of the longest one. Which tokens they hold changes nothing about the memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.batches import (
    DemonstrationBatch,
    MinibatchIndices,
    RankingBatch,
    Rollout,
    SharedPrefixBatch,
    TokenBatch,
)
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.data import DemonstrationData, PromptData, RankingData
from lightning_rlhf.data.collation import collate_demonstrations, collate_packed, collate_rankings
from lightning_rlhf.data.rows import Row, Tally
from lightning_rlhf.data.sampling import row_order
from lightning_rlhf.data.storage import tokenized_rows
from lightning_rlhf.models import evaluation_mode
from lightning_rlhf.models.row_chunks import row_chunks
from lightning_rlhf.modules import PPOModule, RewardModule
from lightning_rlhf.rollout import RolloutLoader, policy_outputs, response_rows
from lightning_rlhf.rollout.passes import ResponseRows, reference_logprobs

__all__ = [
    "Probe",
    "Size",
    "heaviest",
    "longest_prompt",
    "micro_batch",
    "passes_without_gradient",
    "training_pass",
    "update_step",
]


class Size(NamedTuple):
    """How much a pass has to do."""

    rows: float
    targets: float
    """Positions whose logits are read, in all rows."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A pass of some rows.

    Args:
        prepare: makes the batch for a number of rows with a number of targets each, and gives what passes it.
        targets: of each row, for the passes that are made; 0: the pass reads no logits.
        size: of the run's own pass.
    """

    prepare: Callable[[int, int], Callable[[], Any]]
    targets: int
    size: Size


def heaviest(rows: Sequence[Row], length: Callable[[Row], float], number: int) -> list[Row]:
    """The longest rows, the longest first: the batch that takes most, wherever long rows meet."""
    return sorted(rows, key=length, reverse=True)[:number]


def training_pass(run: PreparedRun, rows: Sequence[Row]) -> Probe:
    """Forward pass and loss of a micro-batch.

    Args:
        run: of any stage.
        rows: of its training split, at least one.
    """
    if isinstance(run.module, PPOModule):
        return _update(run, run.module, rows)
    data = run.data
    if isinstance(data, RankingData):
        return _rankings(run, data, rows)
    assert isinstance(data, DemonstrationData)
    batch = heaviest(rows, lambda row: len(row["input_ids"]), data.batch_size)
    targets = max(round(sum(row["num_targets"] for row in batch) / len(batch)), 2)

    def prepare(copies: int, num_targets: int) -> Callable[[], Tensor]:
        return micro_batch(run, [_with_targets(batch[0], num_targets)] * copies)

    return Probe(prepare, targets, Size(len(batch), len(batch) * targets))


def micro_batch(run: PreparedRun, rows: Sequence[Row]) -> Callable[[], Tensor]:
    """Forward pass and loss of these rows, of any stage but PPO.

    Args:
        run: of the stage.
        rows: of its training split.
    """
    data = run.data
    if isinstance(data, RankingData):
        return partial(_step, run, run.placed(collate_rankings(rows)))
    assert isinstance(data, DemonstrationData)
    return partial(_step, run, run.placed((collate_packed if data.packing else collate_demonstrations)(rows)))


def _rankings(run: PreparedRun, data: RankingData, rows: Sequence[Row]) -> Probe:
    """The heaviest of many batches as the run might draw them: which of them share the pass over prompts varies."""
    drawn = [_drawn(run, batch) for batch in _batches(run.module.seed, rows, data.batch_size)]
    batch, calls = max(drawn, key=lambda pair: sum(_num_tokens(inputs) for inputs in pair[1]))
    shared = calls[0] if isinstance(calls[0], SharedPrefixBatch) else None
    longest = int(batch.tokens.input_ids.shape[1])
    rest = max(longest // 2, 1) if shared is None else shared.rows.input_ids.shape[1]
    before = longest - rest if shared is None else shared.prefixes.input_ids.shape[1]
    number = max(round(len(batch.last_positions) / len(batch.ranks)), 2)
    row = {
        "prompt_ids": [0] * before,
        "responses": [[0] * rest] * number,
        "whole_lengths": [rest] * number,
        "ranks": list(range(number)),
        "rewards": [0.0] * number,
        "targets": [0.0] * number,
        "candidates": [True] * number,
        "num_prompts": 1,
    }

    def prepare(copies: int, _: int) -> Callable[[], Tensor]:
        made = collate_rankings([row] * copies)
        if shared is None:
            made = made._replace(tokens=made.tokens._replace(prefixes=None))
        return partial(_step, run, run.placed(made))

    return Probe(prepare, 0, Size(len(batch.last_positions) / number, 0))


def _drawn(run: PreparedRun, rows: Sequence[Row]) -> tuple[RankingBatch, list[TokenBatch | SharedPrefixBatch]]:
    """A batch, and what the transformer is called with for it."""
    batch = collate_rankings(rows)
    module = run.module
    assert isinstance(module, RewardModule)
    return batch, [chunk.tokens for chunk in row_chunks(module.model.backbone, batch.tokens)]


def _num_tokens(inputs: TokenBatch | SharedPrefixBatch) -> int:
    parts = inputs[:2] if isinstance(inputs, SharedPrefixBatch) else (inputs,)
    return sum(part.input_ids.numel() for part in parts)


def _batches(seed: int, rows: Sequence[Row], size: int, most: int = 64) -> list[list[Row]]:
    """Rows in the order of some epochs, cut into batches."""
    orders = [row_order(seed, "rows", epoch, len(rows)) for epoch in range(most)]
    cut = [order[start : start + size] for order in orders for start in range(0, len(rows), size)]
    return [[rows[int(place)] for place in places] for places in cut[:most]]


def _with_targets(row: Row, number: int) -> Row:
    """The row, its last tokens learned."""
    length = len(row["input_ids"])
    number = min(number, length - 1)
    return {**row, "supervised": [False] * (length - number) + [True] * number, "num_targets": number}


def _step(run: PreparedRun, batch: Any) -> Tensor:
    with run.trainer.precision_plugin.forward_context():
        loss = run.module.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    return loss


# PPO


def _update(run: PreparedRun, module: PPOModule, rows: Sequence[Row]) -> Probe:
    length = module.settings.max_response_length
    prompt = longest_prompt(rows)
    ptx_row = _ptx_row(run) if module.ptx_coef else None

    def prepare(copies: int, num_targets: int) -> Callable[[], Tensor]:
        rollout = _rollout(prompt, copies, num_targets, len(prompt) + length)
        ptx = None if ptx_row is None else collate_demonstrations([ptx_row] * copies)
        return partial(update_step, run, module, rollout, ptx)

    number = min(module.minibatch_size, module.rollout_size * module.settings.num_responses_per_prompt)
    return Probe(prepare, length, Size(number, number * length))


def update_step(run: PreparedRun, module: PPOModule, rollout: Rollout, ptx: DemonstrationBatch | None = None) -> Tensor:
    """A training step on all rows of a rollout."""
    number = len(rollout.response_ids)
    loader = RolloutLoader(lambda _: rollout, num_rows=number, minibatch_size=number, num_epochs=1)
    indices = next(iter(loader))
    module.take_rows_from(loader)
    target_kl, module.target_kl = module.target_kl, None  # made-up rows are no reason to end the passes
    try:
        return _step(run, run.placed(MinibatchIndices(indices.rows, indices.num_targets, ptx)))
    finally:
        module.target_kl = target_kl


def _ptx_row(run: PreparedRun) -> Row | None:
    data = run.data
    if not isinstance(data, PromptData) or data.ptx_source is None:
        return None
    rows = list(islice(tokenized_rows(data.ptx_source, "train", data.ptx_tokenization, "skip", Tally()), 512))
    return heaviest(rows, lambda row: len(row["input_ids"]), 1)[0] if rows else None


def longest_prompt(rows: Sequence[Row]) -> list[int]:
    """The ids of the longest prompt of these rows."""
    prompts: list[list[int]] = [list(row["prompt_ids"]) for row in rows]
    return sorted(prompts, key=len)[-1]


def _rollout(prompt: Sequence[int], copies: int, response_length: int, total_length: int) -> Rollout:
    """Rows of one length: the shorter the response, the longer the prompt."""
    prompts = torch.tensor([list(prompt)] * copies).repeat(1, 2)  # of two prompts' length: there is always enough
    while prompts.shape[1] < total_length - response_length:
        prompts = prompts.repeat(1, 2)
    prompts = prompts[:, : total_length - response_length]
    prompts[:, 0] = torch.arange(copies) % 2  # equal neighbours would share their pass, which not all rows of a run do
    responses = torch.zeros((copies, response_length), dtype=torch.int64)
    mask, numbers = torch.ones_like(responses, dtype=torch.bool), torch.zeros(responses.shape)
    return Rollout(
        prompts, torch.ones_like(prompts, dtype=torch.bool), responses, mask, mask, *[numbers.clone() for _ in range(5)]
    )


def passes_without_gradient(run: PreparedRun, rows: Sequence[Row]) -> dict[str, Probe]:
    """What a rollout does with sampled responses: the pass that scores their tokens, and each reward model's."""
    module = run.module
    assert isinstance(module, PPOModule)
    length, prompt = module.settings.max_response_length, longest_prompt(rows)
    temperature = module.settings.temperature
    number = min(run.data.batch_size, module.rollout_size * module.settings.num_responses_per_prompt)

    def joined(copies: int, num_targets: int) -> ResponseRows:
        rollout = _rollout(prompt, copies, num_targets, len(prompt) + length)
        return response_rows(*rollout[:4], device=module.device)

    def token_scores(parts: ResponseRows) -> None:
        with evaluation_mode(module.actor_critic), run.trainer.precision_plugin.forward_context():
            outputs = policy_outputs(module.actor_critic, parts, temperature=temperature)
            reference_logprobs(module.actor_critic, parts, temperature=temperature)
            del outputs

    def scores(model: Any, tokens: TokenBatch) -> None:
        with run.trainer.precision_plugin.forward_context():
            model.scores(tokens, tokens.attention_mask.sum(-1) - 1)

    def scoring(copies: int, num_targets: int) -> Callable[[], None]:
        return partial(token_scores, joined(copies, num_targets))

    def rewarding(model: Any) -> Callable[[int, int], Callable[[], None]]:
        return lambda copies, _: partial(scores, model, joined(copies, length).tokens)

    size = Size(number, number * length)
    probes = {"scoring": Probe(scoring, length, size)}
    for place, model in enumerate(module.reward_models):
        probes[f"reward model {place}"] = Probe(rewarding(model), 0, Size(number, 0))
    return probes
