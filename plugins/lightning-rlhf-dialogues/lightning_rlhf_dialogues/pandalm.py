"""PandaLM's comparisons of two responses."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Message, Ranking, Record
from lightning_rlhf_dialogues.fields import mapping_of, shown, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["PandaLM"]

_PLACES = {0: (0, 0), 1: (0, 1), 2: (1, 0)}
_ANNOTATOR = re.compile(r"annotator(\d+)")


class PandaLM(LayoutSource):
    """PandaLM's rows: `instruction`, `input`, `response1`, `response2`, and a verdict of each annotator.

    `annotator1`, `annotator2`, … are 0 for a tie, 1 or 2 for the better response; each gives the ranks of one
    annotator, null none. The data module's `converter` makes one reward per response of what they say.

    Args:
        path: a file (.json, .jsonl, .csv or .parquet, plain or .gz), a folder of files, a list of these, or files per
            split.
        val_fraction: share of the instructions to hold out for validation, chosen by a hash of instruction and input.
        test_fraction: share of the instructions to hold out for testing.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("pandalm.json")}

    def records(self, row: Any) -> Iterator[Record]:
        """The comparison of a row."""
        fields = mapping_of(row, "a row")
        asked = (text_of(fields, "instruction"), text_of(fields, "input", default=""))
        prompt = "\n".join(part for part in asked if part.strip())
        if not prompt:
            raise RecordError("a row must have an instruction or an input that is not empty, got neither.")
        annotators = sorted((name for name in fields if _ANNOTATOR.fullmatch(name)), key=_number)
        ranks = tuple(_places(name, fields[name]) for name in annotators if fields[name] is not None)
        if not ranks:
            raise RecordError("a comparison must have the verdict of an annotator (annotator1), got none.")
        yield Ranking((Message("user", prompt),), (text_of(fields, "response1"), text_of(fields, "response2")), ranks)


def _number(name: str) -> int:
    return int(name.removeprefix("annotator"))


def _places(name: str, verdict: object) -> tuple[int, int]:
    if isinstance(verdict, str) and verdict.strip().isdecimal():  # a cell of csv
        verdict = int(verdict)
    if isinstance(verdict, bool) or not isinstance(verdict, int) or verdict not in _PLACES:
        raise RecordError(f"{name} must be 0 (a tie), 1 or 2 (the better response), got {shown(verdict)}.")
    return _PLACES[verdict]
