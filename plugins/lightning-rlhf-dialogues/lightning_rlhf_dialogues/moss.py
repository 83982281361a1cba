"""MOSS's conversations, with what it thinks, which tools it calls and what they return."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Record
from lightning_rlhf_dialogues.fields import is_there, mapping_of, shown, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample
from lightning_rlhf_dialogues.templates import INNER_THOUGHTS_ENABLED, has_inner_steps

__all__ = ["Moss"]

_TURN = re.compile(r"turn_(\d+)")
_NONE = "None"
_PARTS = {
    "Human": ("user", "<|Human|>:", "<eoh>"),
    "Inner Thoughts": ("assistant", "<|Inner Thoughts|>:", "<eot>"),
    "Commands": ("assistant", "<|Commands|>:", "<eoc>"),
    "Tool Responses": ("tool", "<|Results|>:", "<eor>"),
    "MOSS": ("assistant", "<|MOSS|>:", "<eom>"),
}
_INNER = ("Inner Thoughts", "Commands", "Tool Responses")


class Moss(LayoutSource):
    """MOSS's rows: `meta_instruction` and `chat`, whose `turn_1`, `turn_2`, … hold the parts of a round.

    `Human` is the user; `Inner Thoughts`, `Commands` and `MOSS` are turns of the assistant; `Tool Responses` is a turn
    of a tool, which is never supervised; the meta instruction is the system message. The markers around each part
    (`<|Human|>: … <eoh>`) are taken off, and the template `moss` writes them again. Rounds keep their inner steps, also
    those that say None, where the meta instruction enables inner thoughts or any of the row's steps says something;
    elsewhere a round is a question and an answer. A row with inner steps whose meta instruction does not enable them
    gets the line that does, since that line is what tells model and template.

    Args:
        path: a file (.json with one conversation or an array of them, .jsonl or .parquet, plain or .gz), a folder of
            files as in MOSS's repository, a list of these, or files per split.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of what stands before their
            first answer.
        test_fraction: share of the dialogues to hold out for testing.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("moss.json")}

    def records(self, row: Any) -> Iterator[Record]:
        """The conversation of a row."""
        fields = mapping_of(row, "a row")
        if not is_there(fields, "chat"):
            raise RecordError(f"a row must have the field 'chat', got the fields {', '.join(map(repr, fields))}.")
        rounds = [_parts(name, turn) for name, turn in _turns(mapping_of(fields["chat"], "chat"), fields)]
        meta = text_of(fields, "meta_instruction", default="").rstrip("\n")
        inner = any(parts[name] != _NONE for parts in rounds for name in _INNER)
        if inner and not has_inner_steps(meta):
            meta = f"{meta}\n{INNER_THOUGHTS_ENABLED}" if meta else INNER_THOUGHTS_ENABLED
        kept = [name for name in _PARTS if has_inner_steps(meta) or name not in _INNER]
        system = [Message("system", meta)] if meta else []
        yield Demonstration((*system, *(Message(_PARTS[name][0], parts[name]) for parts in rounds for name in kept)))


def _turns(chat: Mapping[str, Any], fields: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The rounds in the order of their numbers; parquet gives a row every round that any row has, as null."""
    numbered = {}
    for name, turn in chat.items():
        match = _TURN.fullmatch(name)
        if match is None:
            raise RecordError(f"the rounds of a chat must be named turn_1, turn_2 and so on, got {shown(name)}.")
        if turn is not None:
            numbered[int(match[1])] = (name, mapping_of(turn, name))
    expected = list(range(1, len(numbered) + 1))
    if not numbered or sorted(numbered) != expected:
        raise RecordError(f"the rounds of a chat must be numbered from 1 on, got {sorted(numbered)}.")
    count = fields.get("num_turns")
    if isinstance(count, int) and count != len(numbered):
        raise RecordError(f"num_turns must be the number of rounds, {len(numbered)}, got {count}.")
    return [numbered[number] for number in expected]


def _parts(name: str, turn: Mapping[str, Any]) -> dict[str, str]:
    """What each part of a round says, without its markers; a step that is absent or empty says None."""
    unknown = [part for part in turn if part not in _PARTS]
    if unknown:
        raise RecordError(f"the parts of {name} must be {', '.join(_PARTS)}, got {unknown[0]!r}.")
    parts = {}
    for part, (_, before, end) in _PARTS.items():
        text = text_of(turn, part, default=_NONE if part in _INNER else None).strip()
        parts[part] = text.removeprefix(before).removesuffix(end).strip() or (_NONE if part in _INNER else "")
    if not parts["MOSS"]:
        raise RecordError(f"the answer of MOSS in {name} must not be empty.")
    return parts
