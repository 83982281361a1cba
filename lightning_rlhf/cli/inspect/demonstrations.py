"""A row of supervised fine-tuning: which tokens are there, which are learned, and what the base thinks of them."""

from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import DemonstrationBatch
from lightning_rlhf.cli.inspect.tables import Inspection, Kind, RowText, Table, number
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.cli.row_text import piece_column, pieces_of
from lightning_rlhf.data import DemonstrationData, PromptFormatter
from lightning_rlhf.data.collation import collate_demonstrations, collate_packed
from lightning_rlhf.data.rows import Row
from lightning_rlhf.functional import token_logprobs

__all__ = ["inspect_demonstration"]


def inspect_demonstration(run: PreparedRun, row: Row) -> Inspection:
    """Every token with its masks and label, and its log-probability under the base.

    Args:
        run: of supervised fine-tuning.
        row: as it is stored.
    """
    packing = isinstance(run.data, DemonstrationData) and run.data.packing
    batch: DemonstrationBatch = run.placed((collate_packed if packing else collate_demonstrations)([row]))
    logprobs = _logprobs(run, batch)
    formatter, tokens = run.data.formatter, batch.tokens
    ids, labels = tokens.input_ids[0].tolist(), batch.labels[0].tolist()
    columns: dict[str, list[str]] = {
        "at": [str(place) for place in tokens.position_ids[0].tolist()],
        "id": [str(index) for index in ids],
        "token": piece_column(formatter, ids),
        "attention": ["1" if real else "0" for real in tokens.attention_mask[0].tolist()],
    }
    if tokens.segment_ids is not None:
        columns["document"] = [str(segment) for segment in tokens.segment_ids[0].tolist()]
    columns["label"] = ["" if label == -100 else str(label) for label in labels]
    columns["logprob"] = logprobs
    kinds = [_kind(label, formatter.stop_ids) for label in labels]
    learned = [float(text) for text, kind in zip(logprobs, kinds, strict=True) if kind is not Kind.PROMPT]
    facts = {
        "tokens": str(len(ids)),
        "learned": f"{len(learned)}, {number(-sum(learned) / max(len(learned), 1))} nats per token under the base",
        "template": type(formatter.template).__name__,
    }
    lines = [list(line) for line in zip(*columns.values(), strict=True)]
    starts = [place for place, position in enumerate(tokens.position_ids[0].tolist()) if position == 0]
    texts = _texts(formatter, ids, kinds, starts)
    return Inspection("", facts, texts, [Table("tokens", list(columns), lines, kinds)])


def _texts(formatter: PromptFormatter, ids: list[int], kinds: list[Kind], starts: list[int]) -> list[RowText]:
    """Each document of the row."""
    titles = ["text"] if len(starts) == 1 else [f"document {place}" for place in range(len(starts))]
    return [
        RowText(title, pieces_of(formatter, ids[start:end], kinds[start:end]))
        for title, start, end in zip(titles, starts, [*starts[1:], len(ids)], strict=True)
    ]


@torch.no_grad()
def _logprobs(run: PreparedRun, batch: DemonstrationBatch) -> list[str]:
    """Of each token given those before it; nothing at the beginning of a document."""
    module: Any = run.module
    tokens = batch.tokens
    first = tokens.position_ids[0] == 0
    keep = torch.zeros_like(tokens.attention_mask)
    keep[0, :-1] = ~first[1:]
    if not keep.any():
        return [""] * len(first)
    was_training = module.training
    module.eval()
    with run.trainer.precision_plugin.forward_context():
        logits = module.model(tokens, keep).logits
    module.train(was_training)
    flat: Tensor = token_logprobs(logits, tokens.input_ids[0, 1:][keep[0, :-1]])
    values = iter(flat.tolist())
    return ["" if begins else number(next(values)) for begins in first.tolist()]


def _kind(label: int, stop_ids: tuple[int, ...]) -> Kind:
    if label == -100:
        return Kind.PROMPT
    return Kind.STOP if label in stop_ids else Kind.LEARNED
