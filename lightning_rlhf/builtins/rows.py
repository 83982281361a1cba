"""Turns the rows of files into records.

The kind of a row is read from its fields, a null field counting as absent:

    ranking         `chosen` and `rejected`, or `responses` with `ranks` or `scores`; and `prompt`
    demonstration   `prompt` and `response`, or `messages` that end with the assistant
    prompt          `prompt`, or `messages` that end with someone else; all other fields become columns
    text            `text`

Messages are `{role, content}` objects or ShareGPT's `{from, value}`, where human, gpt, function_call and the like are
understood.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning_rlhf.builtins.cells import cell_of_list, cell_of_messages, cell_of_number
from lightning_rlhf.errors import RecordError, shown
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Record, Text

__all__ = ["KINDS", "RESERVED_COLUMNS", "ColumnMapping", "RecordKind", "RowReader", "record_from_row"]

RecordKind = Literal["text", "demonstration", "ranking", "prompt"]
ColumnMapping = Mapping[str, str | Sequence[str]]

KINDS: dict[type[Record], RecordKind] = {
    Text: "text",
    Demonstration: "demonstration",
    Ranking: "ranking",
    Prompt: "prompt",
}
"""The kind of row that becomes a record of a class."""

RESERVED_COLUMNS = ("messages", "prompts", "response_tokens", "responses", "stopped")
"""Names that the call of a reward function needs for itself."""

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "function_response": "tool",
    "observation": "tool",
}
_LIST_FIELDS = ("messages", "responses", "ranks", "scores")
_MESSAGE_FIELDS = ("prompt", "response", "completion", "chosen", "rejected")
"""Fields that hold text or messages."""
_READERS = {
    "text": "DemonstrationData",
    "demonstration": "DemonstrationData",
    "ranking": "RankingData",
    "prompt": "PromptData",
}
_MISSING = object()
_MOST_NAMES = 12
"""With more fields than these, a message counts the others."""


class RowReader:
    """Reads the rows of one source, which all have to be of one kind, or of those that are wanted.

    Args:
        columns: our field name to the row's: a field, a path into it (`chosen.value`, `conversations.0.value`) or a
            list of these, whose values become a list. A field that is renamed no longer exists under its own name.
        kind: what the rows are; None = read it from their fields.
        wanted: the kinds that the reader of the rows wants, where `kind` does not say what they are. A row of another
            one is a bad row of the first of them.
        text_cells: fields are strings (csv): list fields hold JSON, and so do cells of messages; gathered ranks and
            scores hold numbers, and an empty cell of those is unranked.
    """

    def __init__(
        self,
        columns: ColumnMapping | None = None,
        kind: RecordKind | None = None,
        *,
        wanted: Sequence[RecordKind] = (),
        text_cells: bool = False,
    ) -> None:
        self.columns = dict(columns or {})
        self.kind = kind
        self.wanted = tuple(wanted)
        self.text_cells = text_cells
        self._seen: RecordKind | None = None

    def record(self, row: object) -> Record:
        """The record of a row.

        Args:
            row: a mapping of field names to values.

        Raises:
            RecordError: the row breaks a rule, or is of another kind than the rows before it.
        """
        fields = self._fields(row)
        if self.wanted and self.kind is None:
            return self._wanted_record(fields)
        kind = self.kind or self._detected(fields)
        record = _BUILDERS[kind](fields)
        self._seen = kind
        return record

    def _wanted_record(self, fields: Mapping[str, Any]) -> Record:
        kind = _kind(fields)
        if kind in self.wanted:
            return _BUILDERS[kind](fields)
        try:
            return _BUILDERS[self.wanted[0]](fields)
        except RecordError as error:
            raise RecordError(f"{error} {_READERS[kind]} reads {kind} rows.") from None

    def _detected(self, fields: Mapping[str, Any]) -> RecordKind:
        kind = _kind(fields)
        if self._seen in (None, kind):
            return kind
        # A dialogue that the user ended is a fine demonstration among demonstrations.
        if self._seen == "demonstration" and "messages" in fields and kind == "prompt":
            return "demonstration"
        raise RecordError(
            f"the rows of a source must be of one kind, got a {kind} row after {self._seen} rows. "
            "Split the file, or say with `kind` what the rows are."
        )

    def _fields(self, row: object) -> dict[str, Any]:
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise RecordError(f"a row must be an object with named fields, got {shown(row)}.")
        renamed = {
            name for place in self.columns.values() for name in ([place] if isinstance(place, str) else list(place))
        }
        fields = {name: value for name, value in row.items() if name not in renamed}
        for field, place in self.columns.items():
            if isinstance(place, str):
                fields[field] = self._parsed(field, _value_at(row, field, place))
            else:
                fields[field] = [self._parsed_item(field, _value_at(row, field, item)) for item in place]
        for field in (*_LIST_FIELDS, *_MESSAGE_FIELDS):
            if field not in self.columns and field in fields:
                fields[field] = self._parsed(field, fields[field])
        return fields

    def _parsed(self, field: str, value: Any) -> Any:
        """What a text cell of a list or of messages holds."""
        if not (self.text_cells and isinstance(value, str)):
            return value
        if field in _LIST_FIELDS:
            return cell_of_list(field, value)
        return cell_of_messages(field, value) if field in _MESSAGE_FIELDS else value

    def _parsed_item(self, field: str, value: Any) -> Any:
        """One rank, score or response out of a text cell of its own."""
        if not (self.text_cells and isinstance(value, str)):
            return value
        if field in ("ranks", "scores"):
            return cell_of_number(field, value)
        return cell_of_messages(field, value) if field == "responses" else value


def record_from_row(row: object, columns: ColumnMapping | None = None, kind: RecordKind | None = None) -> Record:
    """The record of one row on its own.

    >>> record_from_row({"question": "1 + 1 =", "answer": "2"}, {"prompt": "question"}).columns["answer"]
    '2'

    Args:
        row: a mapping of field names to values.
        columns: our field name to the row's, as `RowReader` takes it.
        kind: what the row is; None = read it from its fields.

    Raises:
        RecordError: the row breaks a rule.
    """
    return RowReader(columns, kind).record(row)


def _value_at(row: Mapping[str, Any], field: str, place: str) -> Any:
    if place in row:
        return row[place]
    value: Any = row
    for step in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(step, _MISSING)
        elif isinstance(value, list | tuple) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            value = _MISSING
        if value is _MISSING:
            raise RecordError(f"a row must have '{place}' (columns: {field}), got {_names(row)}.")
    return value


def _has(fields: Mapping[str, Any], name: str) -> bool:
    return fields.get(name) is not None


def _kind(fields: Mapping[str, Any]) -> RecordKind:
    if any(_has(fields, name) for name in ("chosen", "rejected", "responses")):
        return "ranking"
    if _has(fields, "prompt") and _has(fields, "response"):
        return "demonstration"
    if _has(fields, "messages"):
        messages = _messages(fields["messages"])
        if messages and messages[-1].role == "assistant":
            return "demonstration"
    if _has(fields, "prompt") or _has(fields, "messages"):
        return "prompt"
    if _has(fields, "text"):
        return "text"
    raise RecordError(
        "a row must have the fields text; prompt; prompt and response; messages; prompt, chosen and rejected; or "
        f"prompt, responses and ranks or scores, got {_names(fields)}. Name its fields in `columns`."
    )


def _field(fields: Mapping[str, Any], kind: RecordKind, name: str) -> Any:
    if not _has(fields, name):
        found = "null" if name in fields else _names(fields)
        raise RecordError(f"a {kind} row must have the field '{name}', got {found}.")
    return fields[name]


def _text(fields: Mapping[str, Any]) -> Record:
    return Text(_field(fields, "text", "text"))


def _demonstration(fields: Mapping[str, Any]) -> Record:
    if not _has(fields, "response") and _has(fields, "messages"):
        return Demonstration(_messages(fields["messages"]))
    prompt = _prompt_messages(_field(fields, "demonstration", "prompt"))
    response = _response(_field(fields, "demonstration", "response"), prompt)
    if not response:
        raise RecordError("the response of a demonstration must not be empty.")
    return Demonstration((*prompt, Message("assistant", response)))


def _prompt(fields: Mapping[str, Any]) -> Record:
    name = "prompt" if _has(fields, "prompt") or not _has(fields, "messages") else "messages"
    prompt = _prompt_messages(_field(fields, "prompt", name))
    columns = {other: value for other, value in fields.items() if other not in (name, "prompt")}
    for reserved in RESERVED_COLUMNS:
        if columns.get(reserved) is not None:
            raise RecordError(
                f"a prompt row must not have a column '{reserved}': reward functions know that name as something else. "
                f"Rename it, for example with `columns: {{my_{reserved}: {reserved}}}`."
            )
        columns.pop(reserved, None)
    return Prompt(prompt, columns)


def _ranking(fields: Mapping[str, Any]) -> Record:
    if _has(fields, "responses"):
        prompt = _prompt_messages(_field(fields, "ranking", "prompt"))
        candidates = fields["responses"]
        if isinstance(candidates, str | Mapping) or not isinstance(candidates, Sequence):
            raise RecordError(f"responses must be a list, got {shown(candidates)}.")
        responses = tuple(_response(candidate, prompt) for candidate in candidates)
        if not _has(fields, "ranks") and not _has(fields, "scores"):
            raise RecordError(f"a ranking row must have the field 'ranks' or 'scores', got {_names(fields)}.")
        return Ranking(prompt, responses, fields.get("ranks"), _scores(fields.get("scores")))  # type: ignore[arg-type]
    chosen, rejected = _field(fields, "ranking", "chosen"), _field(fields, "ranking", "rejected")
    prompt = _prompt_messages(fields["prompt"]) if _has(fields, "prompt") else _shared_prompt(chosen, rejected, fields)
    return Ranking(prompt, (_response(chosen, prompt), _response(rejected, prompt)), ((0, 1),))


def _scores(value: Any) -> Any:
    """Scores as they are; a verdict (true, false) is a score of 1 or 0."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(float(score) if isinstance(score, bool) else score for score in value)
    return value


def _shared_prompt(chosen: Any, rejected: Any, fields: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt of a preference without one: both members are whole dialogues that differ in their last turn."""
    if isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple):
        first, second = _messages(chosen), _messages(rejected)
        if len(first) > 1 and first[:-1] == second[:-1]:
            return _prompt_messages(first[:-1])
    raise RecordError(f"a ranking row must have the field 'prompt', got {_names(fields)}.")


def _prompt_messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, str | Sequence):
        raise RecordError(f"a prompt must be a string or a list of messages, got {shown(value)}.")
    messages = (Message("user", value),) if isinstance(value, str) else _messages(value)
    if messages and messages[-1].role == "assistant":
        raise RecordError("a prompt must end before the assistant's turn, got an assistant message at its end.")
    return messages


def _messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise RecordError(f"messages must be a list of objects with role and content, got {shown(value)}.")
    if not value:
        raise RecordError("messages must not be empty.")
    return tuple(_message(message) for message in value)


def _message(value: Any) -> Message:
    if isinstance(value, Message):
        return value
    if isinstance(value, Mapping):
        for role, content in (("role", "content"), ("from", "value")):
            if role in value and content in value:
                name = value[role]
                return Message(_ROLES.get(name, name) if isinstance(name, str) else name, value[content])
    raise RecordError(f"a message must be an object with role and content, or from and value, got {shown(value)}.")


def _response(value: Any, prompt: tuple[Message, ...]) -> str:
    """The text of a response: a string, an assistant message, or a dialogue that ends with it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise RecordError(f"a response must be a string or an assistant message, got {shown(value)}.")
    *before, last = _messages(value)
    if last.role != "assistant":
        raise RecordError(f"a response must come from the assistant, got a message of role {last.role!r}.")
    if before and tuple(before) != prompt:
        raise RecordError("a response given as a dialogue must start with the row's prompt, got other messages.")
    return last.content


def _names(fields: Mapping[str, Any]) -> str:
    names = [shown(name, 40) for name in fields]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"the fields {', '.join(names[:_MOST_NAMES])}{more}" if names else "no field"


_BUILDERS: dict[RecordKind, Callable[[Mapping[str, Any]], Record]] = {
    "text": _text,
    "demonstration": _demonstration,
    "prompt": _prompt,
    "ranking": _ranking,
}
