"""Turns the rows of files into records.

The kind of a row is read from its fields, a null field counting as absent:

    ranking         `chosen` and `rejected`, or `responses` with `ranks` or `scores`; and `prompt`
    demonstration   `prompt` and `response` (or `completion`), or `messages` that end with the assistant
    prompt          `prompt`, or `messages` that end with someone else; all other fields become columns
    text            `text`

A field that changes what is to be learned is used or refused by name, and those that nothing reads are counted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning_rlhf.builtins.cells import cell_of_list, cell_of_messages, cell_of_number
from lightning_rlhf.builtins.messages import (
    WRITE_OUT,
    answer_turns,
    messages_of,
    prompt_messages,
    response_text,
    with_system,
)
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

RESERVED_COLUMNS = ("messages", "prefilled", "prompts", "response_tokens", "responses", "stopped")
"""Names that the call of a reward function needs for itself."""

_LIST_FIELDS = ("messages", "responses", "ranks", "scores")
_MESSAGE_FIELDS = ("prompt", "response", "completion", "chosen", "rejected")
"""Fields that hold text or messages."""
_READERS = {
    "text": "DemonstrationData",
    "demonstration": "DemonstrationData",
    "ranking": "RankingData",
    "prompt": "PromptData",
}
_PREFERENCE = ("chosen", "rejected", "margin")
_RESPONSES = ("response", "completion")
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
        self.unread: dict[str, int] = {}
        """The fields that became part of no record so far, with the number of rows that have them."""
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
        record = self._built(kind, fields)
        self._seen = kind
        return record

    def _built(self, kind: RecordKind, fields: Mapping[str, Any]) -> Record:
        record = _BUILDERS[kind](fields)
        for name in _unread(kind, fields):
            self.unread[name] = self.unread.get(name, 0) + 1
        return record

    def _wanted_record(self, fields: Mapping[str, Any]) -> Record:
        kind = _kind(fields)
        if kind in self.wanted:
            return self._built(kind, fields)
        try:
            return self._built(self.wanted[0], fields)
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
        for field in (*_LIST_FIELDS, *_MESSAGE_FIELDS, "margin"):
            if field not in self.columns and field in fields:
                fields[field] = self._parsed(field, fields[field])
        return fields

    def _parsed(self, field: str, value: Any) -> Any:
        """What a text cell of a list or of messages holds."""
        if not (self.text_cells and isinstance(value, str)):
            return value
        if field in _LIST_FIELDS:
            return cell_of_list(field, value)
        if field == "margin":
            return cell_of_number(field, value)
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
    if _has(fields, "prompt") and any(_has(fields, name) for name in _RESPONSES):
        return "demonstration"
    if _has(fields, "messages"):
        messages = messages_of(fields["messages"])
        if messages and messages[-1].role == "assistant":
            return "demonstration"
    if _has(fields, "prompt") or _has(fields, "messages"):
        return "prompt"
    if _has(fields, "text"):
        return "text"
    raise RecordError(
        "a row must have the fields text; prompt; prompt and response (or completion); messages; prompt, chosen and "
        f"rejected; or prompt, responses and ranks or scores, got {_names(fields)}. Name its fields in `columns`."
    )


def _field(fields: Mapping[str, Any], kind: RecordKind, name: str) -> Any:
    if not _has(fields, name):
        found = "null" if name in fields else _names(fields)
        raise RecordError(f"a {kind} row must have the field '{name}', got {found}.")
    return fields[name]


def _text(fields: Mapping[str, Any]) -> Record:
    return Text(_field(fields, "text", "text"))


def _demonstration(fields: Mapping[str, Any]) -> Record:
    _refuse_tools(fields)
    name = next((name for name in _RESPONSES if _has(fields, name)), "response")
    if not _has(fields, name) and _has(fields, "messages"):
        return Demonstration(with_system(messages_of(fields["messages"]), fields.get("system")))
    prompt = prompt_messages(_field(fields, "demonstration", "prompt"))
    turns = answer_turns(_field(fields, "demonstration", name), prompt)
    if all(_has(fields, other) for other in _RESPONSES):
        raise RecordError("a row must have the field 'response' or 'completion', got both. Leave one of them out.")
    if name == "completion" and fields.get("label") in (False, "False", "false", 0, "0"):
        raise RecordError("a completion that is to be imitated must not have the label false, got one. Leave it out.")
    if not turns or not turns[-1].content:
        raise RecordError("the response of a demonstration must not be empty.")
    return Demonstration(with_system((*prompt, *turns), fields.get("system")))


def _prompt(fields: Mapping[str, Any]) -> Record:
    _refuse_tools(fields)
    name = "prompt" if _has(fields, "prompt") or not _has(fields, "messages") else "messages"
    prompt = prompt_messages(_field(fields, "prompt", name))
    columns = {other: value for other, value in fields.items() if other not in (name, "prompt")}
    for reserved in RESERVED_COLUMNS:
        if columns.get(reserved) is not None:
            raise RecordError(
                f"a prompt row must not have a column '{reserved}': reward functions know that name as something else. "
                f"Rename it, for example with `columns: {{my_{reserved}: {reserved}}}`."
            )
        columns.pop(reserved, None)
    return Prompt(with_system(prompt, fields.get("system")), columns)


def _ranking(fields: Mapping[str, Any]) -> Record:
    _refuse_tools(fields)
    if _has(fields, "responses"):
        prompt = prompt_messages(_field(fields, "ranking", "prompt"))
        candidates = fields["responses"]
        if isinstance(candidates, str | Mapping) or not isinstance(candidates, Sequence):
            raise RecordError(f"responses must be a list, got {shown(candidates)}.")
        responses = tuple(response_text(candidate, prompt) for candidate in candidates)
        if not _has(fields, "ranks") and not _has(fields, "scores"):
            raise RecordError(f"a ranking row must have the field 'ranks' or 'scores', got {_names(fields)}.")
        if _has(fields, "margin"):
            raise RecordError(
                "a margin must stand beside chosen and rejected, got one beside responses. Say with `scores` how far "
                "they are apart, or leave it out with `columns: {unused: margin}`."
            )
        prompt = with_system(prompt, fields.get("system"))
        return Ranking(prompt, responses, fields.get("ranks"), _scores(fields.get("scores")))  # type: ignore[arg-type]
    chosen, rejected = _field(fields, "ranking", "chosen"), _field(fields, "ranking", "rejected")
    prompt = prompt_messages(fields["prompt"]) if _has(fields, "prompt") else _shared_prompt(chosen, rejected, fields)
    responses = (response_text(chosen, prompt), response_text(rejected, prompt))
    return Ranking(with_system(prompt, fields.get("system")), responses, ((0, 1),), margin=fields.get("margin"))


def _refuse_tools(fields: Mapping[str, Any]) -> None:
    tools = fields.get("tools")
    if tools and not (isinstance(tools, str) and tools.strip() in ("", "[]", "null")):
        raise RecordError(
            f"a row must not have the field 'tools', got {shown(tools)}, which no template here renders. {WRITE_OUT} "
            "`columns: {unused: tools}` leaves the field out."
        )


def _scores(value: Any) -> Any:
    """Scores as they are; a verdict (true, false) is a score of 1 or 0."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(float(score) if isinstance(score, bool) else score for score in value)
    return value


def _shared_prompt(chosen: Any, rejected: Any, fields: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt of a preference without one: both members are whole dialogues that differ in their last turn."""
    if isinstance(chosen, list | tuple) and isinstance(rejected, list | tuple):
        first, second = messages_of(chosen), messages_of(rejected)
        if len(first) > 1 and first[:-1] == second[:-1]:
            return prompt_messages(first[:-1])
    raise RecordError(f"a ranking row must have the field 'prompt', got {_names(fields)}.")


def _unread(kind: RecordKind, fields: Mapping[str, Any]) -> list[str]:
    """The fields of a row that are part of no record of its kind; in a prompt's every field is a column."""
    if kind == "prompt":
        return []
    if kind == "text":
        read = {"text"}
    elif kind == "ranking":
        read = {"prompt", "system", *(("responses", "ranks", "scores") if _has(fields, "responses") else _PREFERENCE)}
    elif any(_has(fields, name) for name in _RESPONSES):
        read = {"prompt", "system", *_RESPONSES}
    else:
        read = {"messages", "system"}
    return [name for name in fields if name not in read and fields[name] not in (None, "")]


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
