"""The report in the terminal."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from lightning_rlhf.cli.doctor.check import CheckResult, Status
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.cli.row_text import Kind, Piece, marked, pieces_of, windowed
from lightning_rlhf.terminal import visible

__all__ = ["ShownRow", "print_result", "print_rows", "shown_rows", "summary"]

_COLOURS = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
_TOKEN_COLOURS = {Kind.LEARNED: "bold green", Kind.PROMPT: "dim", Kind.LEFT_OUT: "cyan"}
_MOST_TOKENS = 400


class ShownRow(NamedTuple):
    """A row of tokens to be shown in colour, or what is learned of it with what stands around that."""

    title: str
    pieces: list[Piece]


def print_result(console: Console, result: CheckResult) -> None:
    """One check: how it looks, what was found, what to do."""
    line = Text.assemble((f"{result.status:<4}", _COLOURS[result.status]), "  ", (result.name, "bold"), ": ")
    console.print(line.append(visible(result.finding)), soft_wrap=True)
    if result.fix:
        console.print(Text.assemble("      ", ("fix: ", "cyan"), visible(result.fix)), soft_wrap=True)


def summary(results: Sequence[CheckResult], seconds: float) -> str:
    """How many there are of each."""
    counts = Counter(result.status for result in results)
    return ", ".join(f"{counts[status]} {status}" for status in reversed(Status)) + f" in {seconds:.0f} s"


def print_rows(console: Console, rows: Iterable[ShownRow]) -> None:
    """Rows as the model sees them, what is learned in green; between ⟦ ⟧ where there are no colours."""
    for row in rows:
        console.print(Text(row.title, "bold"))
        console.print(marked(row.pieces, _TOKEN_COLOURS, brackets=console.color_system is None), soft_wrap=True)


def shown_rows(subject: Subject, number: int = 2) -> Iterator[ShownRow]:
    """The first rows of the training split, as tokens.

    Args:
        subject: the run.
        number: rows at most.
    """
    for place, row in enumerate(subject.sample.rows[:number]):
        if subject.stage == "sft":
            title, ids, learned = "learned", row["input_ids"], row["supervised"]
        elif subject.stage == "reward":
            best = row["ranks"].index(min(rank for rank, c in zip(row["ranks"], row["candidates"], strict=True) if c))
            title, response = "a best response", row["responses"][best]
            ids, learned = row["prompt_ids"] + response, [False] * len(row["prompt_ids"]) + [True] * len(response)
        else:
            sampled = subject.sampled.sampled
            title, response = "sampled", sampled.response_ids[place][sampled.completion_mask[place]].tolist()
            ids, learned = row["prompt_ids"] + response, [False] * len(row["prompt_ids"]) + [True] * len(response)
        kinds = [Kind.LEARNED if is_learned else Kind.PROMPT for is_learned in learned]
        pieces = windowed(pieces_of(subject.formatter, ids, kinds), _MOST_TOKENS)
        shown = sum(piece.num_tokens for piece in pieces if piece.kind is not Kind.LEFT_OUT)
        cut = f", {shown} of {len(ids)} tokens" if shown < len(ids) else ""
        yield ShownRow(f"row {place} ({title} in green{cut})", pieces)
