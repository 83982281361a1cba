"""ChatGLM's dialogues: rounds of question and answer, written out or as a history."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Record
from lightning_rlhf_dialogues.fields import answered, is_there, list_of, mapping_of, pairs, shown, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["ChatGLM"]

_ROUND = re.compile(r"(?:\A|\n)\[Round (\d+)\]\s*问[：:]")
_ANSWER = re.compile(r"(?:\A|\n)答[：:]")
_MARKERS = {
    "user": re.compile(r"\A\s*(?:\[Round \d+\]\s*)?问[：:]\s*|\n\s*答[：:]\s*\Z"),
    "assistant": re.compile(r"\A\s*答[：:]\s*"),
}
"""What the template writes around a turn of each role."""


class ChatGLM(LayoutSource):
    r"""ChatGLM's rows: a prompt and its response, with a `history` of question and answer pairs.

    The prompt may be rounds written out, `[Round 0]\n问：…\n答：…\n[Round 1]\n问：…\n答：`, the last of which the
    response answers; so may a `text` that holds the whole dialogue, with the last answer. A history in ChatGLM3's form,
    messages of `{role, content}`, is read too. Markers that stand at a turn already (`问：`, `答：`, `[Round 1]`) are
    taken off, since the template writes them.

    Args:
        path: a file (.json, .jsonl, .csv or .parquet, plain or .gz), a folder of files, a list of these, or files per
            split.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of what stands before their
            first answer.
        test_fraction: share of the dialogues to hold out for testing.
        prompt_column: the field of the question, such as content in AdvertiseGen.
        response_column: the field of the answer, such as summary in AdvertiseGen.
        history_column: the field of the rounds before; a row without it has none.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("chatglm.json")}

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        prompt_column: str = "prompt",
        response_column: str = "response",
        history_column: str = "history",
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.prompt_column = prompt_column
        self.response_column = response_column
        self.history_column = history_column

    def records(self, row: Any) -> Iterator[Record]:
        """The dialogue of a row."""
        fields = mapping_of(row, "a row")
        if not is_there(fields, self.prompt_column) and is_there(fields, "text"):
            yield Demonstration(_rounds(text_of(fields, "text")))
            return
        prompt = text_of(fields, self.prompt_column)
        turns = _history(fields.get(self.history_column))
        if _ROUND.match(prompt.lstrip()):
            written = _rounds(prompt)
            if written[-1].role == "assistant":
                raise RecordError("the rounds of a prompt must end before the last answer, got that answer too.")
            turns += written
        else:
            turns.append(Message("user", prompt))
        turns.append(Message("assistant", text_of(fields, self.response_column)))
        *before, last = map(_unmarked, turns)
        yield Demonstration(answered(before, last.content))


def _unmarked(turn: Message) -> Message:
    """A turn without the markers that the template writes: they would stand there twice."""
    markers = _MARKERS.get(turn.role)
    return turn if markers is None else Message(turn.role, markers.sub("", turn.content))


def _history(value: object) -> list[Message]:
    if value is None or value == "":
        return []
    rounds = list_of(value, "history")
    if not any(isinstance(turn, Mapping) for turn in rounds):
        return pairs(rounds, "history")
    turns = [mapping_of(turn, "a message of history") for turn in rounds]
    return [Message(text_of(turn, "role"), text_of(turn, "content")) for turn in turns]


def _rounds(text: str) -> tuple[Message, ...]:
    """The turns of rounds that are written out; a last answer that is empty is the one to come."""
    start, *parts = _ROUND.split(text.strip())
    if start or not parts:
        raise RecordError(f"a dialogue in rounds must begin with '[Round 0]' and '问：', got {shown(text)}.")
    numbers = [int(number) for number in parts[::2]]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise RecordError(f"the rounds of a dialogue must be numbered one after the other, got {numbers}.")
    turns = []
    for place, said in enumerate(parts[1::2], start=1):
        question, *answers = (part.strip() for part in _ANSWER.split(said))
        # what looks like another answer in an answer belongs to it
        answer = "\n答：".join(answers)
        turns.append(Message("user", question))
        if answer:
            turns.append(Message("assistant", answer))
        elif place < len(numbers):
            raise RecordError(
                f"every round but the last must have an answer (答：), got none in [Round {numbers[place - 1]}]."
            )
    return tuple(turns)
