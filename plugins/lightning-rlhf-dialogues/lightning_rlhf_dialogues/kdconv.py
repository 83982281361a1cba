"""KdConv's dialogues between two people."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Record
from lightning_rlhf_dialogues.fields import is_there, list_of, mapping_of, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["KdConv"]


class KdConv(LayoutSource):
    """KdConv's rows: `messages` whose turns carry no role. Speakers alternate; the first is the user.

    Args:
        path: a file (.json or .jsonl, plain or .gz), a folder of files, a list of these, or files per split.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of their first turn.
        test_fraction: share of the dialogues to hold out for testing.
        knowledge: puts what a turn of the assistant was written from (`attrs`) before it, as a tool's turn with one
            "name, attribute: value" a line; it is never supervised. Without it, only what was said is read.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("kdconv.json")}

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        knowledge: bool = False,
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.knowledge = knowledge

    def records(self, row: Any) -> Iterator[Record]:
        """The dialogue of a row."""
        fields = mapping_of(row, "a row")
        if not is_there(fields, "messages"):
            raise RecordError(f"a row must have the field 'messages', got the fields {', '.join(map(repr, fields))}.")
        messages = []
        for place, value in enumerate(list_of(fields["messages"], "messages")):
            turn = mapping_of(value, "a turn")
            role = ("user", "assistant")[place % 2]
            if self.knowledge and role == "assistant" and turn.get("attrs"):
                messages.append(Message("tool", _known(turn["attrs"])))
            messages.append(Message(role, text_of(turn, "message")))
        yield Demonstration(tuple(messages))


def _known(attributes: object) -> str:
    lines = []
    for value in list_of(attributes, "attrs"):
        known = mapping_of(value, "an entry of attrs")
        lines.append(f"{text_of(known, 'name')}，{text_of(known, 'attrname')}：{text_of(known, 'attrvalue')}")
    return "\n".join(lines)
