"""ShareGPT's conversations, as shared, and as fine-tuning tools write dialogues with tools and preferences."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Ranking, Record
from lightning_rlhf_dialogues.fields import is_there, list_of, mapping_of, shown, text_of, tools_message
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["ShareGPT"]

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "assistant": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "claude": "assistant",
    "function_call": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool_call": "assistant",
    "function_response": "tool",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
}
_TURNS = ("conversations", "conversation", "items", "messages")


class ShareGPT(LayoutSource):
    """ShareGPT's rows: `conversations` of `{from, value}` turns; preferences where a row has `chosen` and `rejected`.

    human and user speak as the user; gpt, chatgpt, bing, bard, model and function_call as the assistant; observation,
    tool and function_response as a tool, which is never supervised. `conversation` and `items` are read too, and turns
    of `{role, content}`. A row may have `system`, and `tools`, a list of descriptions or its JSON: they make up the
    system message.

    Args:
        path: a file (.json, .jsonl or .parquet, plain or .gz), a folder of files, a list of these, or files per split.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of what stands before their
            first answer.
        test_fraction: share of the dialogues to hold out for testing.
        tools_preamble: the line above the descriptions of a row's tools.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("sharegpt.json")}

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        tools_preamble: str = "You can call these tools:",
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.tools_preamble = tools_preamble

    def records(self, row: Any) -> Iterator[Record]:
        """A demonstration or a preference."""
        fields = mapping_of(row, "a row")
        name = next((name for name in _TURNS if is_there(fields, name)), _TURNS[0])
        if not is_there(fields, name):
            raise RecordError(f"a row must have the field '{name}', got the fields {', '.join(map(repr, fields))}.")
        turns = [_message(turn) for turn in list_of(fields[name], name)]
        system = text_of(fields, "system", default="")
        if turns and turns[0].role == "system":
            system = "\n\n".join(part for part in (system, turns.pop(0).content) if part)
        messages = (*tools_message(system, fields.get("tools"), self.tools_preamble), *turns)
        if not turns:
            raise RecordError("a dialogue must have at least one turn besides the system message, got none.")
        if not (is_there(fields, "chosen") or is_there(fields, "rejected")):
            yield Demonstration(messages)
            return
        if messages[-1].role == "assistant":
            raise RecordError("the dialogue of a preference must end before the assistant's turn, got its answer too.")
        yield Ranking(messages, (_response(fields, "chosen"), _response(fields, "rejected")), ((0, 1),))


def _message(value: object) -> Message:
    turn = mapping_of(value, "a turn")
    speaker, said = ("role", "content") if "role" in turn and "from" not in turn else ("from", "value")
    name = text_of(turn, speaker)
    role = _ROLES.get(name.strip().lower())
    if role is None:
        raise RecordError(f"the speaker of a turn must be one of {', '.join(_ROLES)}, got {shown(name)}.")
    return Message(role, text_of(turn, said))


def _response(fields: Mapping[str, Any], name: str) -> str:
    """A string, or one turn of the assistant."""
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return text_of(fields, name)
    message = _message(value)
    if message.role != "assistant":
        raise RecordError(f"'{name}' must be said by the assistant, got a turn of the {message.role}.")
    return message.content
