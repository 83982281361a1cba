"""A row of PPO: the responses that the first rollout would sample, and all that is computed on each token."""

from typing import Any

from torch import Tensor

from lightning_rlhf.batches import Rollout
from lightning_rlhf.cli.inspect.tables import Inspection, Kind, RowText, Table, number
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.cli.row_text import piece_column, pieces_of
from lightning_rlhf.data.collation import collate_prompts
from lightning_rlhf.data.rows import Row
from lightning_rlhf.functional import kl_k1
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.rollout import CollectedRollout, collect_rollout

__all__ = ["inspect_prompt"]

_HEADINGS = ("at", "id", "token", "loss", "logprob", "ref", "KL", "token reward", "value", "advantage", "return")
"""`at` is the position. Narrow enough that all of them stand in a terminal of 80 columns."""


def inspect_prompt(run: PreparedRun, row: Row, position: int) -> Inspection:
    """Every token of the prompt, and of each sampled response with its numbers.

    Args:
        run: of PPO.
        row: as it is stored.
        position: of the row in its split: the key of its random numbers.
    """
    module: Any = run.module
    assert isinstance(module, PPOModule)
    collected = collect_rollout(
        module.actor_critic,
        collate_prompts([row], [position]),
        module.score_pipeline(),
        run.data.formatter,
        module.settings,
        module.rollout_runtime(),
        seed=module.seed,
        iteration=0,
        kl_coef=module.kl_coef,
        batch_size=run.data.batch_size,
    )
    facts = {
        "prompt": f"{len(row['prompt_ids'])} tokens",
        "columns": row["columns"],
        "KL coefficient": f"{module.kl_coef:g}",
        "gamma, lambda": f"{module.settings.gamma:g}, {module.settings.gae_lambda:g}",
        "advantages": "before whitening, which takes the whole rollout",
    }
    shown = [_prompt(run, row["prompt_ids"])]
    shown += [_response(run, collected, place) for place in range(len(collected.samples))]
    return Inspection("", facts, [text for text, _ in shown], [table for _, table in shown])


def _prompt(run: PreparedRun, ids: list[int]) -> tuple[RowText, Table]:
    formatter, kinds = run.data.formatter, [Kind.PROMPT] * len(ids)
    texts = piece_column(formatter, ids)
    lines = [[str(place), str(index), text] for place, (index, text) in enumerate(zip(ids, texts, strict=True))]
    return RowText("prompt", pieces_of(formatter, ids, kinds)), Table("prompt", _HEADINGS[:3], lines, kinds)


def _response(run: PreparedRun, collected: CollectedRollout, place: int) -> tuple[RowText, Table]:
    rollout, sample = collected.rollout, collected.samples[place]
    kept = rollout.completion_mask[place]
    ids = rollout.response_ids[place][kept].tolist()
    columns = _columns(rollout, collected.token_rewards)
    numbers = [[number(value) for value in column[place][kept].tolist()] for column in columns]
    start = int(rollout.prompt_mask[place].sum())
    formatter = run.data.formatter
    lines = [
        [str(start + index), str(token_id), text, "1" if learned else "0", *(column[index] for column in numbers)]
        for index, (token_id, text, learned) in enumerate(
            zip(ids, piece_column(formatter, ids), rollout.loss_mask[place][kept].tolist(), strict=True)
        )
    ]
    scores = ", ".join(f"{name} {number(score)}" for name, score in sample.scores.items())
    ending = "stopped" if sample.stopped else "cut at max_response_length"
    title = f"response {place}: score {number(sample.score)} ({scores}), KL {number(sample.kl)}, {ending}"
    kinds = [Kind.STOP if index in formatter.stop_ids else Kind.LEARNED for index in ids]
    return RowText(title, pieces_of(formatter, ids, kinds)), Table(title, _HEADINGS, lines, kinds)


def _columns(rollout: Rollout, token_rewards: Tensor) -> list[Tensor]:
    """In the order of the headings. Returns less values: the advantages before whitening."""
    return [
        rollout.old_logprobs,
        rollout.ref_logprobs,
        kl_k1(rollout.old_logprobs, rollout.ref_logprobs),
        token_rewards,
        rollout.old_values,
        rollout.returns - rollout.old_values,
        rollout.returns,
    ]
