"""A row of a reward model: the candidates, their places, and where and what their scores are."""

from typing import Any

import torch

from lightning_rlhf.batches import RankingBatch
from lightning_rlhf.cli.inspect.tables import Inspection, Kind, RowText, Table, number
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.cli.row_text import piece_column, pieces_of
from lightning_rlhf.data.collation import collate_rankings
from lightning_rlhf.data.rows import Row

__all__ = ["inspect_ranking"]


def inspect_ranking(run: PreparedRun, row: Row) -> Inspection:
    """Each candidate with its score; then every token, the one that the score is read at marked.

    Args:
        run: of a reward model.
        row: as it is stored.
    """
    batch: RankingBatch = run.placed(collate_rankings([row]))
    module: Any = run.module
    with torch.no_grad(), run.trainer.precision_plugin.forward_context():
        flat = iter(module.model.scores(batch.tokens, batch.last_positions).float().tolist())
    scores = [next(flat) if candidate else None for candidate in row["candidates"]]
    facts = {
        "candidates": f"{len(scores)}, ranked {sum(row['candidates'])}",
        "prompt": f"{len(row['prompt_ids'])} tokens",
        "template": type(run.data.formatter.template).__name__,
        "scores": "of the reward model that training would go on with"
        if module.head_was_trained
        else "of the base with a new head: they mean nothing before training",
    }
    shown = [_tokens(run, "prompt", 0, row["prompt_ids"], Kind.PROMPT)]
    for place, (ids, score) in enumerate(zip(row["responses"], scores, strict=True)):
        if score is not None:
            shown.append(_tokens(run, f"candidate {place}", len(row["prompt_ids"]), ids, Kind.LEARNED, score))
    tables = [_overview(run, row, scores), *(table for _, table in shown)]
    return Inspection("", facts, [text for text, _ in shown], tables)


def _overview(run: PreparedRun, row: Row, scores: list[float | None]) -> Table:
    lines = []
    for place, score in enumerate(scores):
        ids = row["responses"][place]
        shown = (
            ["", "", "", ""]
            if score is None
            else [str(row["ranks"][place]), number(row["rewards"][place]), number(row["targets"][place]), number(score)]
        )
        response = "not ranked: left out" if score is None else run.data.formatter.decode_response(ids)
        lines.append([str(place), *shown, str(len(ids)), response])
    headings = ["candidate", "rank", "reward", "target", "score", "tokens", "response"]
    return Table("candidates", headings, lines, [Kind.PLAIN] * len(lines), of_tokens=False)


def _tokens(
    run: PreparedRun, title: str, start: int, ids: list[int], kind: Kind, score: float | None = None
) -> tuple[RowText, Table]:
    formatter = run.data.formatter
    last = len(ids) - 1
    lines = [
        [
            str(start + place),
            str(index),
            token,
            "1",
            "" if score is None or place != last else number(score),
        ]
        for place, (index, token) in enumerate(zip(ids, piece_column(formatter, ids), strict=True))
    ]
    kinds = [Kind.STOP if kind is Kind.LEARNED and index in formatter.stop_ids else kind for index in ids]
    table = Table(title, ["at", "id", "token", "attention", "score"], lines, kinds)
    return RowText(title, pieces_of(formatter, ids, kinds)), table
