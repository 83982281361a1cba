"""Columns of prompts as JSON, in which they are stored for reward functions."""

import datetime
import json
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from lightning_rlhf.errors import RecordError

__all__ = ["json_columns"]

_LEFT_OUT = object()


def json_columns(columns: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The JSON of a prompt's columns, and the names of those that were left out.

    Times become ISO text, decimals and UUIDs text as they are written. Bytes are left out: no reward function could be
    given them as JSON; in an object, only the field that holds them goes.

    >>> json_columns({"day": datetime.date(2026, 1, 2), "price": Decimal("0.10"), "image": {"bytes": b"", "path": "a"}})
    ('{"day": "2026-01-02", "price": "0.10", "image": {"path": "a"}}', ['image.bytes'])

    Raises:
        RecordError: a column holds something else that JSON has no form for.
    """
    left_out: list[str] = []
    try:
        try:
            text = json.dumps(columns, ensure_ascii=False)
        except TypeError:
            text = json.dumps(_portable_object(columns, "", left_out), ensure_ascii=False)
        text.encode()  # half a surrogate pair could not be written anywhere
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"the columns of a prompt must hold JSON values (text, numbers, lists, objects), got {error}. Convert "
            "the column, or leave it out of the file."
        ) from None
    return text, left_out


def _portable(value: Any, name: str, left_out: list[str]) -> Any:
    """A value as JSON has it, `_LEFT_OUT` of bytes; what has no form is left to who writes the JSON."""
    if isinstance(value, bytes | bytearray | memoryview):
        left_out.append(name)
        return _LEFT_OUT
    if isinstance(value, Mapping):
        return _portable_object(value, f"{name}.", left_out)
    if isinstance(value, list | tuple):
        members = [_portable(member, name, left_out) for member in value]
        return _LEFT_OUT if any(member is _LEFT_OUT for member in members) else members
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value) if isinstance(value, datetime.timedelta | uuid.UUID) else value


def _portable_object(fields: Mapping[Any, Any], prefix: str, left_out: list[str]) -> dict[Any, Any]:
    converted = {name: _portable(value, f"{prefix}{name}", left_out) for name, value in fields.items()}
    return {name: value for name, value in converted.items() if value is not _LEFT_OUT}
