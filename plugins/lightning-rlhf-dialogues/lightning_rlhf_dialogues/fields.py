"""Takes the fields of a row apart, with an error for what is not as the layout has it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Message

__all__ = ["answered", "is_there", "json_value", "list_of", "mapping_of", "pairs", "shown", "text_of", "tools_message"]


def mapping_of(value: object, subject: str) -> Mapping[str, Any]:
    """An object with named fields."""
    if not isinstance(value, Mapping):
        raise RecordError(f"{subject} must be an object with named fields, got {shown(value)}.")
    return value


def list_of(value: object, subject: str) -> Sequence[Any]:
    """A list."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise RecordError(f"{subject} must be a list, got {shown(value)}.")
    return value


def text_of(row: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    """A field that holds a string; one that is absent or null is the default, if there is one."""
    value = row.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        if name in row:
            raise RecordError(f"field '{name}' must be a string, got {shown(value)}.")
        names = ", ".join(repr(field) for field in row) or "none"
        raise RecordError(f"a row must have the field '{name}', got the fields {names}.")
    return value


def is_there(row: Mapping[str, Any], name: str) -> bool:
    """Whether a field holds something; null, which parquet writes for what a row has not, does not count."""
    return row.get(name) is not None


def json_value(text: str, subject: str) -> Any:
    """What a string of JSON holds."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{subject} must hold JSON, got {shown(text)}.") from None


def pairs(value: object, subject: str) -> list[Message]:
    """A history of `[question, answer]` pairs as messages."""
    messages = []
    for pair in list_of(value, subject):
        both = list_of(pair, f"a round of {subject}")
        if len(both) != 2 or not all(isinstance(text, str) for text in both):
            raise RecordError(f"a round of {subject} must be a question and its answer, got {shown(pair)}.")
        messages += [Message("user", both[0]), Message("assistant", both[1])]
    return messages


def answered(messages: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """Messages and the answer to them, which must not be empty."""
    if not answer.strip():
        raise RecordError("the response of a demonstration must not be empty.")
    return (*messages, Message("assistant", answer))


def tools_message(system: str, tools: object, preamble: str) -> list[Message]:
    """The system message of a row that describes tools, one JSON object a line below a preamble; none for neither.

    Args:
        system: what the row says itself.
        tools: a list of descriptions, or its JSON; null and an empty list are no tools.
        preamble: stands above them.
    """
    if isinstance(tools, str):
        tools = json_value(tools, "field 'tools'") if tools.strip() else None
    described = [] if tools is None else list_of(tools, "field 'tools'")
    lines = [json.dumps(tool, ensure_ascii=False) for tool in described]
    parts = [system] if system else []
    if lines:
        parts.append("\n".join([preamble, *lines] if preamble else lines))
    return [Message("system", "\n\n".join(parts))] if parts else []


def shown(value: object) -> str:
    """A value in an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
