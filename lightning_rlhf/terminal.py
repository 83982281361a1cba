"""The one place that makes text safe for a terminal: what a file, a model or a plug-in wrote is shown, not obeyed."""

import unicodedata

__all__ = ["escaped", "visible"]

_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control characters move the cursor, formatting ones turn text around, half characters cannot be printed."""
_JOINERS = "\u200c\u200d"
"""Of emoji, and of scripts whose letters join."""


def escaped(text: object) -> str:
    r"""Text of any number of lines, with what would act on a terminal as escapes; letters of all scripts stay.

    >>> escaped("two\n\tlines \x1b[2J")
    'two\n\tlines \\x1b[2J'
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" + _JOINERS
    return "".join(character if character in kept else _shown(character) for character in text)


def visible(text: str) -> str:
    r"""Text in one line, with all characters that cannot be seen as escapes: how tokens are shown.

    >>> visible("a\n\x1b[2Jb")
    'a⏎\\x1b[2Jb'
    """
    return "".join("⏎" if character == "\n" else _shown(character) for character in text)


def _shown(character: str) -> str:
    return ascii(character)[1:-1] if unicodedata.category(character) in _HARMFUL else character
