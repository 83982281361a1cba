"""JSON as data files have it: what Python reads and other readers do not, and what it would lose, is a fault."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from lightning_rlhf.errors import RecordError, shown

__all__ = ["array_members", "begins_array", "json_fault", "parsed_json"]

_NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""What stands for a byte that is not UTF-8 in a text that was decoded with `surrogateescape`."""
_DEEPEST = 100
"""Brackets in each other. Python's own limit depends on who calls: one pass would read a row, and another refuse it."""
_TOO_DEEP = f"more than {_DEEPEST} brackets in each other"
_FORM = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|[^\s,:"\[\]{}]+')
"""Strings, brackets, and what else stands between white space, commas and colons."""
_ARRAY_OF_OBJECTS = re.compile(r"\s*\[\s*(\{|$)")
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


def begins_array(line: str, *, alone: bool) -> bool:
    """Whether the first line of a file begins an array of rows, and is no row that happens to be a list.

    >>> begins_array('[{"a": 1},', alone=False), begins_array('[{"a": 1}]', alone=False)
    (True, False)

    Args:
        line: the first that is not blank.
        alone: it is the only one.
    """
    if _ARRAY_OF_OBJECTS.match(line) is None:
        return False
    if alone:
        return True
    try:
        parsed_json(line)
    except json.JSONDecodeError:
        return True
    except ValueError:  # whole, and at fault for another reason
        return False
    return False


def array_members(text: str) -> Iterator[Any]:
    """The members of a JSON array one after the other, or the `RecordError` that stands for one.

    Args:
        text: begins with the array's bracket, perhaps after white space.

    Raises:
        JSONDecodeError: it is no JSON; the members before that place were yielded.
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
        if _is_too_deep(value, text, place, end):
            raise RecursionError
        if _NO_CHARACTER.search(text, place, end):
            raise ValueError("bytes that are not UTF-8")
        if "\\u" in text[place:end]:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except UnicodeEncodeError:
        raise ValueError("an escape is half a surrogate pair") from None
    return value, end


def _is_too_deep(value: Any, text: str, place: int, end: int) -> bool:
    if text.count("[", place, end) + text.count("{", place, end) <= _DEEPEST:
        return False
    level = [value]
    for _ in range(_DEEPEST):
        level = [member for whole in level for member in _members(whole)]
    return any(isinstance(member, dict | list) for member in level)


def _members(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _end(text: str, place: int) -> int:
    """Where a value ends whose content is at fault and whose form is not."""
    depth = 0
    for match in _FORM.finditer(text, place):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth <= 0:
            return match.end()
    raise json.JSONDecodeError("Expecting ',' delimiter", text, len(text))


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
