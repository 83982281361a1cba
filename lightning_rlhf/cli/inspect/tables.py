"""What is shown of a row: facts and tables of text, the same for the terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Inspection", "Kind", "Table", "number"]


class Kind(StrEnum):
    """What a line of a table is about; each has a colour."""

    PROMPT = "prompt"
    """Read, and not learned."""
    LEARNED = "learned"
    """Learned from: a supervised token, a token of a response."""
    STOP = "stop"
    """Learned, and ends a response."""
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Lines of text under headings.

    Args:
        title: what it shows.
        headings: one per column.
        lines: one entry per heading.
        kinds: one per line.
    """

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    kinds: Sequence[Kind]


@dataclass(frozen=True, slots=True)
class Inspection:
    """One row as the model sees it.

    Args:
        title: of the whole.
        facts: what holds for the row as a whole, by name.
        tables: in the order to read them.
    """

    title: str
    facts: dict[str, str]
    tables: list[Table] = field(default_factory=list)


def number(value: float) -> str:
    """A number of a table, narrow enough for many columns.

    >>> number(-0.00001), number(0.12345), number(-12.3456), number(1234.5)
    ('0.0000', '0.1235', '-12.346', '1234.5')
    """
    decimals = 4 if abs(value) < 1 else 3 if abs(value) < 100 else 1
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text
