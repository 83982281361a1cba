"""Messages of rows, in the spellings that data files have, as records.

A field that changes what is to be learned is used or refused by name: none is left out without a word.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_rlhf.errors import RecordError, shown
from lightning_rlhf.records import Message

__all__ = ["WRITE_OUT", "answer_turns", "messages_of", "prompt_messages", "response_text", "with_system"]

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "function_response": "tool",
    "observation": "tool",
    "developer": "system",
}
_SPELLINGS = (("role", "content"), ("from", "value"))
_NOT_RENDERED = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "refusal", "audio")
"""Fields of an assistant's message beside its content."""
WRITE_OUT = (
    "Read the file with the dataset `openai_messages` of lightning-rlhf-dialogues, which writes tools and calls as "
    "text, write it into a message's content as the model is to read or say it, or take it out of the row."
)
"""Advice on rows with tools and calls."""
_OTHER_WEIGHTS = ("loss", "loss_mask", "loss_scale", "loss_weight", "train", "training", "trainable")
"""Other trainers' names for `weight`."""


def messages_of(value: Any) -> tuple[Message, ...]:
    """The messages of a list of them.

    Raises:
        RecordError: it is none, or one of them breaks a rule.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise RecordError(f"messages must be a list of objects with role and content, got {shown(value)}.")
    if not value:
        raise RecordError("messages must not be empty.")
    return tuple(map(_message, value))


def prompt_messages(value: Any) -> tuple[Message, ...]:
    """The messages of a prompt: a string is one of the user."""
    if not isinstance(value, str | Sequence):
        raise RecordError(f"a prompt must be a string or a list of messages, got {shown(value)}.")
    messages = (Message("user", value),) if isinstance(value, str) else messages_of(value)
    if messages and messages[-1].role == "assistant":
        raise RecordError("a prompt must end before the assistant's turn, got an assistant message at its end.")
    return messages


def with_system(messages: tuple[Message, ...], system: Any) -> tuple[Message, ...]:
    """The messages after the system message that a field of its own gives, if it does."""
    if system is None or system == "":
        return messages
    if not isinstance(system, str):
        raise RecordError(f"the field 'system' must be a string, got {shown(system)}.")
    if messages[0] == Message("system", system):
        return messages
    if messages[0].role == "system":
        raise RecordError(
            "a row must have one system message, got the field 'system' and a message that say different things. Leave "
            "one of them out."
        )
    return (Message("system", system), *messages)


def answer_turns(value: Any, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns that follow a prompt: a string, an assistant message, several turns, or a dialogue with the prompt."""
    if isinstance(value, str):
        return (Message("assistant", value),)
    turns = _turns(value)
    if turns[-1].role != "assistant":
        raise RecordError(f"a response must come from the assistant, got a message of role {turns[-1].role!r}.")
    if turns[: len(prompt)] == prompt:
        return turns[len(prompt) :]
    if turns[0].role != "assistant":
        raise RecordError("a response given as a dialogue must start with the row's prompt, got other messages.")
    return turns


def response_text(value: Any, prompt: tuple[Message, ...]) -> str:
    """The text of one response, which is a single turn after its prompt."""
    if isinstance(value, str):
        return value
    turns = answer_turns(value, prompt)
    if len(turns) > 1:
        raise RecordError("a response given as a dialogue must start with the row's prompt, got other messages.")
    if not turns[0].learned:
        raise RecordError("a response must not have the weight 0, got one that has. Leave the row out instead.")
    return turns[0].content


def _turns(value: Any) -> tuple[Message, ...]:
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise RecordError(f"a response must be a string or an assistant message, got {shown(value)}.")
    return messages_of(value)


def _message(value: Any) -> Message:
    if isinstance(value, Message):
        return value
    if isinstance(value, Mapping):
        for role, content in _SPELLINGS:
            if role in value and (content in value or (role == "role" and value.get("tool_calls"))):
                _refuse_unread(value)
                name = value[role]
                name = _ROLES.get(name, name) if isinstance(name, str) else name
                return Message(name, _text(value[content]), learned=_is_learned(value, name))
    raise RecordError(f"a message must be an object with role and content, or from and value, got {shown(value)}.")


def _refuse_unread(message: Mapping[str, Any]) -> None:
    for name in _NOT_RENDERED:
        if message.get(name):
            raise RecordError(
                f"a message must not have the field '{name}', got {shown(message[name])}, which no template here "
                f"renders. {WRITE_OUT}"
            )
    for name in _OTHER_WEIGHTS:
        if message.get(name) is not None:
            raise RecordError(
                f"a message must say with `weight` whether it is learned, got the field '{name}'. Write weight: 0 or "
                "weight: 1 instead."
            )


def _text(content: Any) -> Any:
    """The text of content parts, after each other; other content as it is."""
    if isinstance(content, str | Mapping) or not isinstance(content, Sequence):
        return content
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if kind not in (None, "text") or not isinstance(text, str):
            raise RecordError(f"a part of a message's content must be text, got {shown(part)}. Take it out of the row.")
        texts.append(text)
    return "".join(texts)


def _is_learned(message: Mapping[str, Any], role: Any) -> bool:
    weight = message.get("weight")
    if weight is None:
        return True
    if isinstance(weight, str) or weight not in (0, 1):
        raise RecordError(f"the weight of a message must be 0 or 1, got {shown(weight)}. Round it.")
    if weight and role != "assistant":
        raise RecordError(f"the weight of a message must be 0 unless it is the assistant's, got 1 for {shown(role)}.")
    return bool(weight) or role != "assistant"
