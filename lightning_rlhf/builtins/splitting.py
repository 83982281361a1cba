"""Splits records by their prompt, so that no prompt stands on both sides."""

import hashlib
import json

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.records import Demonstration, Message, Record, Text

__all__ = ["assigned_split", "check_fractions", "opening"]


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises ConfigError unless both are shares that leave something for training."""
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise ConfigError(f"{name} must be at least 0 and below 1, got {fraction}.")
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"val_fraction and test_fraction must leave rows to train on, got {val_fraction} and {test_fraction}."
        )


def opening(record: Record) -> str:
    """What decides the side of a record: a text, or the turns before the assistant's first answer to a user.

    A dialogue and its continuations share their opening, and so do a demonstration, a ranking and a prompt for the same
    prompt; they stay together, in whichever files they stand.
    """
    if isinstance(record, Text):
        return record.text
    turns = _before_last_answer(record.messages) if isinstance(record, Demonstration) else record.prompt
    asked = False
    for index, message in enumerate(turns):
        if asked and message.role == "assistant":
            turns = turns[:index]
            break
        asked = asked or message.role == "user"
    return json.dumps([[message.role, message.content] for message in turns], ensure_ascii=False)


def assigned_split(record: Record, val_fraction: float, test_fraction: float) -> str:
    """train, validation or test by a hash of the opening: the same on every machine and in any order of rows.

    >>> assigned_split(Text("Once upon a time"), 0.0, 0.0)
    'train'
    """
    digest = hashlib.sha256(opening(record).encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < val_fraction:
        return "validation"
    return "test" if place < val_fraction + test_fraction else "train"


def _before_last_answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    last = max(index for index, message in enumerate(messages) if message.role == "assistant")
    return messages[:last] or messages
