"""Keeping a key out of everything that a server sends back, however it is written there."""

import html
import json
import re
from urllib.parse import unquote

__all__ = ["without_key"]

_SHOWN = "[key]"
_JSON_ESCAPES = re.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/])')


def without_key(text: str, key: str | None) -> str:
    r"""The text with `[key]` in the place of the key, also where it is escaped.

    Args:
        text: what somebody sent.
        key: the secret; None: there is none.

    >>> without_key(r"not \u0073k-1 but sk-2", "sk-1")
    'not [key] but sk-2'
    """
    if not key:
        return text
    text = text.replace(key, _SHOWN)
    for decoded in (_without_escapes, html.unescape, unquote):
        if key in (plain := decoded(text)):
            text = plain.replace(key, _SHOWN)
    return text


def _without_escapes(text: str) -> str:
    """JSON's escapes decoded; more than once, for JSON within JSON."""
    for _ in range(4):
        plain = _JSON_ESCAPES.sub(lambda match: str(json.loads(f'"{match[0]}"')), text)
        if plain == text:
            break
        text = plain
    return text
