"""A row of tokens as the text that they make, what is learned marked."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.terminal import visible

__all__ = ["Kind", "Piece", "in_lines", "marked", "piece_column", "pieces_of", "windowed"]

_CONTEXT = 30
"""Tokens that are shown before and after what is learned."""
_LEAST_LEARNED = 40
"""Tokens of each learned part that are shown."""


class Kind(StrEnum):
    """What tokens are to the run; each has a colour."""

    PROMPT = "prompt"
    """Read, and not learned."""
    LEARNED = "learned"
    """Learned from: a supervised token, a token of a response."""
    STOP = "stop"
    """Learned, and ends a response."""
    PLAIN = "plain"
    LEFT_OUT = "left-out"
    """Words in the place of tokens that are not shown."""


_LEARNED = (Kind.LEARNED, Kind.STOP)


class Piece(NamedTuple):
    """The text of a token, or of several that only make a character together."""

    text: str
    kind: Kind
    num_tokens: int


def pieces_of(formatter: PromptFormatter, ids: Sequence[int], kinds: Sequence[Kind]) -> list[Piece]:
    """The text of a row; no piece is learned in part.

    Args:
        formatter: of the run.
        ids: of the row.
        kinds: one per token.
    """
    pieces, start = [], 0
    for kind, members in groupby(kinds):
        end = start + len(list(members))
        texts = formatter.token_texts(ids[start:end], ids[start - 1] if start else None)
        pieces += [Piece(text, kind, num_tokens) for text, num_tokens in texts]
        start = end
    return pieces


def piece_column(formatter: PromptFormatter, ids: Sequence[int]) -> list[str]:
    """One text per token, for a table: `今 1/3` for the first of three tokens that make a character together."""
    column = []
    for text, number in formatter.token_texts(ids):
        column += [text] if number == 1 else [f"{text} {part}/{number}" for part in range(1, number + 1)]
    return column


def marked(pieces: Sequence[Piece], colours: Mapping[Kind, str], *, brackets: bool, lines: bool = False) -> Text:
    """Text for the terminal.

    Args:
        pieces: of the row.
        colours: rich styles.
        brackets: what is learned stands between ⟦ ⟧: there are no colours.
        lines: a line break of the row breaks the line; else it is a sign.
    """
    text = Text()
    for learned, run in groupby(pieces, key=lambda piece: piece.kind in _LEARNED):
        text.append("⟦" if learned and brackets else "")
        for kind, members in groupby(run, key=lambda piece: piece.kind):
            joined = "".join(piece.text for piece in members)
            text.append(in_lines(joined) if lines else visible(joined), colours.get(kind, ""))
        text.append("⟧" if learned and brackets else "")
    return text


def in_lines(text: str) -> str:
    r"""Text whose line breaks are signs and line breaks.

    >>> in_lines("a\nb")
    'a⏎\nb'
    """
    return "⏎\n".join(map(visible, text.split("\n")))


def windowed(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """What is learned of a row with a little of what stands around it, and words for what is left out.

    Args:
        pieces: of the row.
        most: tokens that are shown.
    """
    if _num_tokens(pieces) <= most:
        return list(pieces)
    runs = [(learned, list(run)) for learned, run in groupby(pieces, key=lambda piece: piece.kind in _LEARNED)]
    context = 2 * _CONTEXT if any(learned for learned, _ in runs) else most
    around = sum(min(_num_tokens(run), context) for learned, run in runs if not learned)
    limit = _even_limit([_num_tokens(run) for learned, run in runs if learned], most - around)
    shown: list[Piece] = []
    room = most
    for place, (learned, run) in enumerate(runs):
        kept = _shortened(run, limit if learned else context)
        used = sum(piece.num_tokens for piece in kept if piece.kind is not Kind.LEFT_OUT)
        if used > room:
            return [*shown, _left_out([piece for _, rest in runs[place:] for piece in rest])]
        shown += kept
        room -= used
    return shown


def _even_limit(lengths: Sequence[int], room: int) -> int:
    """The most that each may have so that all of them fit, and no less than a part that can be read.

    >>> _even_limit([50, 500, 300], 400), _even_limit([500] * 100, 400)
    (175, 40)
    """
    for place, length in enumerate(sorted(lengths)):
        share = room // (len(lengths) - place)
        if length > share:
            return max(share, _LEAST_LEARNED)
        room -= length
    return max(lengths, default=_LEAST_LEARNED)


def _shortened(run: Sequence[Piece], most: int) -> list[Piece]:
    """Beginning and end of a run."""
    if _num_tokens(run) <= most:
        return list(run)
    head = list(_first(run, most - most // 2))
    tail = list(_first(run[::-1], most // 2))[::-1]
    return [*head, _left_out(run[len(head) : len(run) - len(tail)]), *tail]


def _first(pieces: Sequence[Piece], most: int) -> Iterator[Piece]:
    for piece in pieces:
        most -= piece.num_tokens
        if most < 0:
            return
        yield piece


def _left_out(pieces: Sequence[Piece]) -> Piece:
    learned = _num_tokens([piece for piece in pieces if piece.kind in _LEARNED])
    number = _num_tokens(pieces)
    of_those = (
        f", {learned} of them learned" if learned and learned < number else " that are learned" if learned else ""
    )
    return Piece(f" […{number} tokens{of_those}…] ", Kind.LEFT_OUT, number)


def _num_tokens(pieces: Sequence[Piece]) -> int:
    return sum(piece.num_tokens for piece in pieces)
