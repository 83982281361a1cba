"""Cells of text (csv) that hold more than text: lists, numbers and messages, written as JSON."""

import re
from collections.abc import Mapping
from typing import Any

from lightning_rlhf.builtins.json_text import parsed_json
from lightning_rlhf.errors import RecordError, shown

__all__ = ["cell_of_list", "cell_of_messages", "cell_of_number"]

_MESSAGE_KEYS = (("role", "content"), ("from", "value"))
_LIKE_MESSAGES = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")
"""The first characters of messages, in JSON and as Python shows them."""


def cell_of_list(field: str, cell: str) -> Any:
    """The JSON of a cell, None of an empty one."""
    if not cell.strip():
        return None
    try:
        return parsed_json(cell)
    except ValueError:
        raise RecordError(f"field '{field}' must hold a JSON list, got {shown(cell)}.") from None


def cell_of_number(field: str, cell: str) -> Any:
    """A rank or a score, None of an empty cell."""
    if not cell.strip():
        return None
    try:
        return parsed_json(cell)
    except ValueError:
        raise RecordError(f"the values of '{field}' must be numbers, got {shown(cell)}.") from None


def cell_of_messages(field: str, cell: str) -> Any:
    """The messages of a cell that holds a JSON object or list of them, else its text as it is.

    >>> cell_of_messages("prompt", '[{"role": "user", "content": "hi"}]'), cell_of_messages("response", "[1, 2]")
    ([{'role': 'user', 'content': 'hi'}], '[1, 2]')

    Raises:
        RecordError: the cell begins as messages do and is no JSON.
    """
    if cell.lstrip()[:1] not in ("[", "{"):
        return cell
    try:
        value = parsed_json(cell)
    except ValueError:
        if _LIKE_MESSAGES.match(cell) is None:
            return cell
        raise RecordError(
            f"field '{field}' must hold its messages as JSON, got {shown(cell)}. Write the cell with json.dumps, not "
            "as Python shows a list."
        ) from None
    members = value if isinstance(value, list) else [value]
    return value if members and all(map(_is_message, members)) else cell


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(role in value and content in value for role, content in _MESSAGE_KEYS)
