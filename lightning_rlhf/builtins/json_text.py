"""JSON as data files have it: what Python reads and other readers do not, and what it would lose, is a fault."""

import json
import re
from collections.abc import Iterator
from typing import Any

from lightning_rlhf.errors import RecordError, shown

__all__ = ["array_members", "json_fault", "parsed_json"]

_NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""What stands for a byte that is not UTF-8 in a text that was decoded with `surrogateescape`."""
_SPACE = re.compile(r"[ \t\n\r]*")


def parsed_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is nested too deeply, gives a field twice, of which one would be lost, or has an
            escape that is half a character, which no tokenizer can encode.
    """
    return _checked(text, 0, whole=True)[0]


def json_fault(error: ValueError) -> str:
    """What is wrong with a JSON text, as the end of a message."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
    return str(error)


def array_members(text: str) -> Iterator[Any]:
    """The members of a JSON array one after the other, or the `RecordError` that stands for one.

    Args:
        text: begins with the array's bracket, perhaps after white space.

    Raises:
        JSONDecodeError: it is no JSON; the members before that place were yielded.
        ValueError: a member is nested so deeply that its end is not found.
    """
    place = _after_space(text, _after_space(text, 0) + 1)
    closed = text.startswith("]", place)
    while not closed:
        try:
            member, end = _checked(text, place)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            member, end = RecordError(f"a row must be JSON, got {json_fault(error)}."), _end(text, place)
        yield member
        place = _after_space(text, end)
        closed = text.startswith("]", place)
        if not closed and not text.startswith(",", place):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = place if closed else _after_space(text, place + 1)
    place = _after_space(text, place + 1)
    if place < len(text):
        raise json.JSONDecodeError("Extra data", text, place)


def _checked(text: str, place: int, *, whole: bool = False) -> tuple[Any, int]:
    """The value that begins at a place, and where it ends."""
    try:
        value, end = (_STRICT.decode(text), len(text)) if whole else _STRICT.raw_decode(text, place)
        if _NO_CHARACTER.search(text, place, end):
            raise ValueError("bytes that are not UTF-8")
        if "\\u" in text[place:end]:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("too many brackets in each other") from None
    except UnicodeEncodeError:
        raise ValueError("an escape is half a surrogate pair") from None
    return value, end


def _end(text: str, place: int) -> int:
    """Where a value ends whose content is at fault and whose form is not."""
    try:
        return _LENIENT.raw_decode(text, place)[1]
    except RecursionError:
        raise ValueError("too many brackets in each other") from None


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return place if match is None else match.end()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {shown(next(name for name in names if names.count(name) > 1))} twice")
    return fields


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_fields)
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)  # numbers of any length
