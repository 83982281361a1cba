"""Dialogues as OpenAI's chat and fine-tuning interfaces write them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Ranking, Record
from lightning_rlhf_dialogues.fields import (
    is_there,
    json_value,
    list_of,
    mapping_of,
    shown,
    text_of,
    tools_message,
)
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["OpenAIMessages"]

_ROLES = {
    "assistant": "assistant",
    "developer": "system",
    "function": "tool",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
_PREFERRED = ("preferred_output", "preferred_completion")
_REJECTED = ("non_preferred_output", "non_preferred_completion")


class OpenAIMessages(LayoutSource):
    """OpenAI's rows: `messages` of role and content, `tools`; or preferences, `input` with two outputs.

    Content is a string, null, or a list of text and refusal parts. A call of a tool is supervised: one JSON object a
    line, `{"name": …, "arguments": {…}}`, below the content of its message. What a tool says is not. The system message
    (or developer's) ends with the descriptions of the row's tools. The older `functions`, `function_call` and role
    function are read alike. A row whose `preferred_output` and `non_preferred_output` continue `input` is a ranking.

    Args:
        path: a file (.jsonl, .json or .parquet, plain or .gz), a folder of files, a list of these, or files per split.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of what stands before their
            first answer.
        test_fraction: share of the dialogues to hold out for testing.
        tools_preamble: the line above the descriptions of a row's tools.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("openai.jsonl")}

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
        if not is_there(fields, "input"):
            yield Demonstration(self._dialogue(fields))
            return
        prompt = self._dialogue(mapping_of(fields["input"], "field 'input'"))
        if prompt[-1].role == "assistant":
            raise RecordError("the input of a preference must end before the assistant's turn, got its answer too.")
        yield Ranking(prompt, (_output(fields, _PREFERRED), _output(fields, _REJECTED)), ((0, 1),))

    def _dialogue(self, fields: Mapping[str, Any]) -> tuple[Message, ...]:
        if not is_there(fields, "messages"):
            raise RecordError(f"a row must have the field 'messages', got the fields {', '.join(map(repr, fields))}.")
        turns = [_message(turn) for turn in list_of(fields["messages"], "messages")]
        if not turns:
            raise RecordError("messages must not be empty.")
        tools = fields.get("tools")
        if tools is None:
            tools = fields.get("functions")
        system = turns.pop(0).content if turns[0].role == "system" else ""
        return (*tools_message(system, tools, self.tools_preamble), *turns)


def _message(value: object) -> Message:
    turn = mapping_of(value, "a message")
    name = text_of(turn, "role")
    if name not in _ROLES:
        raise RecordError(f"the role of a message must be one of {', '.join(_ROLES)}, got {shown(name)}.")
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise RecordError(f"the weight of a message must be 0 or 1, got {shown(weight)}. Round it.")
    content = _content(turn.get("content"))
    calls = _calls(turn)
    if calls and _ROLES[name] != "assistant":
        raise RecordError(f"a message that calls tools must come from the assistant, got the role {name!r}.")
    if not content and not calls and turn.get("refusal") is not None:
        content = text_of(turn, "refusal")
    return Message(_ROLES[name], "\n".join(part for part in (content, *calls) if part), learned=weight != 0)


def _content(value: object) -> str:
    """The text of a string, of nothing, or of parts, one after the other."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return "".join(_part(part) for part in list_of(value, "the content of a message"))


def _part(value: object) -> str:
    part = mapping_of(value, "a part of a message")
    kind = part.get("type")
    for text in ("text", "refusal"):
        if kind in (text, f"input_{text}", f"output_{text}"):
            return text_of(part, text)
    raise RecordError(f"a part of a message must be text, got the type {shown(kind)}. Images and sound are not read.")


def _calls(turn: Mapping[str, Any]) -> list[str]:
    """The calls of a message, each as one line of JSON."""
    calls: Sequence[Any] = list_of(turn["tool_calls"], "tool_calls") if is_there(turn, "tool_calls") else []
    functions = [
        mapping_of(mapping_of(call, "a tool call").get("function"), "a tool call's function") for call in calls
    ]
    if is_there(turn, "function_call"):
        functions.append(mapping_of(turn["function_call"], "function_call"))
    return [_call(function) for function in functions]


def _call(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = json_value(arguments, "the arguments of a tool call") if arguments.strip() else {}
    called = {"name": text_of(function, "name"), "arguments": {} if arguments is None else arguments}
    return json.dumps(called, ensure_ascii=False)


def _output(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """The one message of the assistant that an output holds."""
    name = next((name for name in names if is_there(fields, name)), names[0])
    value = fields.get(name)
    messages = [_message(message) for message in list_of([value] if isinstance(value, Mapping) else value, f"'{name}'")]
    if len(messages) != 1 or messages[0].role != "assistant":
        raise RecordError(f"'{name}' must be one message of the assistant, got {len(messages)} messages.")
    return messages[0].content
