"""Tokens as a terminal and a page can show them: nothing that a model or a file wrote is left to act by itself."""

import unicodedata

__all__ = ["visible"]

_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control characters move the cursor, formatting ones turn the direction of text around."""


def visible(text: str) -> str:
    r"""Text in one line, with characters that cannot be seen as escapes.

    >>> visible("a\n\x1b[2Jb")
    'a⏎\\x1b[2Jb'
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\n":
        return "⏎"
    return ascii(character)[1:-1] if unicodedata.category(character) in _HARMFUL else character
