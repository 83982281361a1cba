"""Anthropic's transcripts of people and assistants, in pairs of which one was chosen."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Ranking, Record
from lightning_rlhf_dialogues.fields import is_there, mapping_of, shown, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["HH"]

_MARKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HH(LayoutSource):
    r"""Rows of Anthropic's HH data: `chosen` and `rejected`, transcripts of `\n\nHuman:` and `\n\nAssistant:` turns.

    Both have to differ in the last turn of the assistant only; a pair that parts earlier has no common prompt, and is a
    bad row. White space around a turn is left out. The `transcript` of a red-teaming row is a demonstration.

    Args:
        path: a file (.jsonl, .json or .parquet, plain or .gz), a folder of files, a list of these, or files per split.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of what stands before their
            first answer.
        test_fraction: share of the dialogues to hold out for testing.
        record: ranking puts the chosen answer before the rejected one; demonstration is the chosen dialogue alone, to
            imitate.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("hh.jsonl")}

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        record: Literal["ranking", "demonstration"] = "ranking",
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.record = record

    def records(self, row: Any) -> Iterator[Record]:
        """The pair of a row, or the dialogue to imitate."""
        fields = mapping_of(row, "a row")
        if is_there(fields, "transcript"):
            yield Demonstration(_turns(fields, "transcript"))
            return
        chosen = _turns(fields, "chosen")
        if self.record == "demonstration":
            yield Demonstration(chosen)
            return
        rejected = _turns(fields, "rejected")
        if chosen[:-1] != rejected[:-1]:
            raise RecordError("chosen and rejected must differ in their last turn only, got others before it.")
        for name, turns in (("chosen", chosen), ("rejected", rejected)):
            if turns[-1].role != "assistant":
                raise RecordError(f"'{name}' must end with the assistant, got a last turn of the user.")
        if len(chosen) < 2:
            raise RecordError("a pair must have a turn of the user before the answers, got none.")
        yield Ranking(chosen[:-1], (chosen[-1].content, rejected[-1].content), ((0, 1),))


def _turns(fields: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    text = text_of(fields, name)
    start, *parts = _MARKER.split(text)
    if start.strip() or not parts:
        raise RecordError(f"'{name}' must begin with '\\n\\nHuman:' or '\\n\\nAssistant:', got {shown(text)}.")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(_ROLES[speaker], said.strip()) for speaker, said in turns)
