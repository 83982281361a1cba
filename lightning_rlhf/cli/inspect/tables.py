"""What is shown of a row: facts, texts and tables of text, the same for the terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lightning_rlhf.cli.row_text import Kind, Piece

__all__ = ["Inspection", "Kind", "RowText", "Table", "number"]


@dataclass(frozen=True, slots=True)
class Table:
    """Lines of text under headings.

    Args:
        title: what it shows.
        headings: one per column.
        lines: one entry per heading.
        kinds: one per line.
        of_tokens: a line is a token.
    """

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    kinds: Sequence[Kind]
    of_tokens: bool = True


@dataclass(frozen=True, slots=True)
class RowText:
    """A row, or a part of it, as text.

    Args:
        title: what it is.
        pieces: what the tokens make.
    """

    title: str
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Inspection:
    """One row as the model sees it.

    Args:
        title: of the whole.
        facts: what holds for the row as a whole, by name.
        texts: in the order to read them.
        tables: in the order to read them.
    """

    title: str
    facts: dict[str, str]
    texts: list[RowText] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def without_tokens(self) -> "Inspection":
        """The same without the tables that have a line for each token."""
        return replace(self, tables=[table for table in self.tables if not table.of_tokens])


def number(value: float) -> str:
    """A number of a table, narrow enough for many columns.

    >>> number(-0.00001), number(0.12345), number(-12.3456), number(1234.5)
    ('0.0000', '0.1235', '-12.346', '1234.5')
    """
    decimals = 4 if abs(value) < 1 else 3 if abs(value) < 100 else 1
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text
