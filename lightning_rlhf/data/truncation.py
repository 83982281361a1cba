"""What stays of a row that is too long: places of tokens, and dialogues of fewer turns."""

from collections.abc import Callable, Sequence
from typing import Literal

from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message

__all__ = [
    "DOCUMENT_TRUNCATIONS",
    "TRUNCATIONS",
    "DocumentTruncation",
    "Truncation",
    "last_turn_cut",
    "token_windows",
    "whole_turns",
]

Truncation = Literal["turns", "left", "right", "drop"]
DocumentTruncation = Literal["turns", "left", "right", "drop", "window"]
TRUNCATIONS = ("turns", "left", "right", "drop")
DOCUMENT_TRUNCATIONS = (*TRUNCATIONS, "window")

Dialogue = Sequence[Message]
Length = Callable[[Dialogue], int]
"""Tokens of a dialogue."""


def whole_turns(messages: Dialogue, length: Length, room: int, least: int = 1) -> Dialogue | None:
    """The dialogue without its oldest turns, so that the rest fits.

    The system message stays. Turns go with the question that they answer, as long as a later question is there; then
    the oldest answers to the last question (tool calls with their results). Where question and answers do not fit, the
    question may lose the beginning of its text before an answer goes, and so may a tool's result at the end: nobody
    learns from those.

    Args:
        messages: the dialogue.
        length: how many tokens a dialogue takes.
        room: tokens at most.
        least: tokens that must stay of a question that is cut, if it has as many.

    Returns:
        None where the answer does not fit, or so much of the question is not left.
    """
    head = _num_protected(messages)
    kept, turns = messages[:head], messages[head:]
    questions = [place for place in range(1, len(turns)) if _begins_exchange(turns, place)]
    later = [[*kept, *turns[place:]] for place in questions]
    fits = _first_that_fits(later, length, room)
    if fits is not None:
        return fits
    turns = turns[questions[-1] :] if questions else turns
    asked = next((place for place, turn in enumerate(turns) if turn.role != "user"), len(turns))
    steps = [place for place in range(asked, len(turns)) if turns[place].role == "assistant"] or [asked]
    for step in steps:
        shorter = [*kept, *turns[:asked], *turns[step:]]
        if _length(length, shorter) <= room:
            return shorter
        if asked:
            cut = _question_cut(kept, turns[asked - 1], turns[step:], length, room, least)
            if cut is not None:
                return cut
    if turns[-1].role == "assistant" or len(turns) == asked:
        return None
    # a prompt that ends with a tool's result, which nobody learns either
    with_question, without = [*kept, *turns[:asked], *turns[steps[-1] :]], [*kept, *turns[steps[-1] :]]
    ends = (last_turn_cut(dialogue, length, room, keep_end=True) for dialogue in (with_question, without))
    return next((end for end in ends if end is not None), None)


def last_turn_cut(messages: Dialogue, length: Length, room: int, *, keep_end: bool = False) -> Dialogue | None:
    """The dialogue without the end of its last turn's text, or its beginning; None where it does not fit even so."""
    last = messages[-1]
    return _text_cut(
        lambda text: [*messages[:-1], Message(last.role, text)], last.content, length, room, 1, keep_end=keep_end
    )


def token_windows(supervised: Sequence[bool], size: int) -> list[tuple[int, int]]:
    """Pieces of a row of at most `size` tokens, in which together every learned token but the row's first is predicted.

    A piece ends where a learned turn does, if one ends in its second half. Within a learned turn the next begins with
    the token that ended the one before.

    >>> token_windows([False, True, True, True, True, True], 3)
    [(0, 3), (2, 5), (4, 6)]
    >>> token_windows([False, True, True, False, False, True], 4)
    [(0, 3), (3, 6)]
    """
    windows, start = [], 0
    while start + size < len(supervised):
        end = start + size
        turn_ends = [
            place for place in range(start + size // 2 + 1, end + 1) if supervised[place - 1] and not supervised[place]
        ]
        end = turn_ends[-1] if turn_ends else end
        windows.append((start, end))
        start = end - 1 if supervised[end] else end
    return [*windows, (start, len(supervised))]


def _question_cut(
    head: Dialogue, question: Message, rest: Dialogue, length: Length, room: int, least: int
) -> Dialogue | None:
    return _text_cut(lambda text: [*head, Message(question.role, text), *rest], question.content, length, room, least)


def _num_protected(messages: Dialogue) -> int:
    """How many turns at the start are the system's: they stay."""
    return next((place for place, turn in enumerate(messages) if turn.role != "system"), len(messages))


def _begins_exchange(turns: Dialogue, place: int) -> bool:
    return turns[place].role == "user" and turns[place - 1].role != "user"


def _length(length: Length, messages: Dialogue) -> float:
    try:
        return length(messages)
    except TemplateError:  # the template refuses a dialogue of these turns
        return float("inf")


def _first_that_fits(dialogues: Sequence[Dialogue], length: Length, room: int) -> Dialogue | None:
    """Of dialogues that get shorter and shorter, the first that fits."""
    low, high = 0, len(dialogues)
    while low < high:
        middle = (low + high) // 2
        if _length(length, dialogues[middle]) <= room:
            high = middle
        else:
            low = middle + 1
    return dialogues[low] if low < len(dialogues) else None


def _text_cut(
    dialogue: Callable[[str], Dialogue], text: str, length: Length, room: int, least: int, *, keep_end: bool = True
) -> Dialogue | None:
    """The dialogue with as much of a text as fits."""

    def part(number: int) -> Dialogue:
        return dialogue(text[len(text) - number :] if keep_end else text[:number])

    empty, full = _length(length, part(0)), _length(length, part(len(text)))
    if full <= room:
        return part(len(text))
    if not room - empty >= min(full - empty, least):
        return None
    # the number of tokens grows nearly evenly with the text: a few guesses come close, halves end the search
    shortest, longest, from_length, to_length = 0, len(text), empty, full
    guesses = 8
    while longest - shortest > 1:
        share = (room - from_length) / (to_length - from_length) if guesses > 0 else 0.5
        guesses -= 1
        number = min(max(shortest + int((longest - shortest) * share), shortest + 1), longest - 1)
        found = _length(length, part(number))
        if found <= room:
            shortest, from_length = number, found
        else:
            longest, to_length = number, found
    return part(shortest) if shortest else None
