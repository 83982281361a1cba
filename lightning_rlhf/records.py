"""Text-level records: what a dataset component yields, before any tokenizer sees it.

Frozen and self-validating, standard library only. A record that exists is valid.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lightning_rlhf.errors import RecordError, shown

__all__ = ["ROLES", "Demonstration", "Message", "Prompt", "Ranking", "Record", "Text"]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue.

    Args:
        role: one of system, user, assistant, tool.
        content: the text of the turn; may be empty.
        learned: supervised fine-tuning learns the turn, if it is the assistant's.
    """

    role: str
    content: str
    learned: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RecordError(f"the role of a message must be one of {', '.join(ROLES)}, got {shown(self.role)}.")
        _require_text("the content of a message", self.content)


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text for continued pretraining.

    Args:
        text: the document; must hold something else than white space.
    """

    text: str

    def __post_init__(self) -> None:
        _require_text("text", self.text)
        if not self.text.strip():
            raise RecordError("text must not be empty.")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A dialogue to imitate.

    Args:
        messages: the turns in order, at least one of them from the assistant.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", _messages(self.messages))
        said = [message for message in self.messages if message.role == "assistant" and message.content]
        if not said:
            raise RecordError("a demonstration must have at least one assistant message that is not empty, got none.")
        if not any(message.learned for message in said):
            raise RecordError("a demonstration must have an assistant message to learn, got the weight 0 for all.")


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prompt with K responses and their places.

    Args:
        prompt: the turns before the response; a plain string is one user message.
        responses: K candidate responses, K >= 2.
        ranks: per annotator K places, 0 = best, equal = tie, None = not ranked. One annotator may be given as a flat
            sequence. None derives one annotator's ranks from `scores`.
        scores: K numbers, higher = better, None = not scored; or None.
        margin: how far the better one of two responses is above the other; None = not known.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    ranks: tuple[tuple[float | None, ...], ...]
    scores: tuple[float | None, ...] | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _messages(self.prompt))
        responses = _sequence("responses", self.responses)
        for response in responses:
            _require_text("a response", response)
        if len(responses) < 2:
            raise RecordError(f"a ranking must have at least two responses, got {len(responses)}.")
        object.__setattr__(self, "responses", responses)
        num_candidates = len(responses)
        margin = _number("a margin", self.margin)
        if margin is not None and (margin < 0 or num_candidates != 2):
            raise RecordError(f"a margin must be 0 or more, between two responses, got {shown(margin)}.")
        if self.scores is not None:
            scores = tuple(_number("a score", score) for score in _sequence("scores", self.scores))
            _require_length("scores", scores, num_candidates)
            object.__setattr__(self, "scores", scores)
        ranks: Any = self.ranks
        if ranks is None:
            if self.scores is None:
                raise RecordError("a ranking must have ranks or scores, got neither.")
            ranks = (_dense_ranks(self.scores),)
        annotators = _sequence("ranks", ranks)
        if not annotators or not isinstance(annotators[0], Sequence):
            annotators = (annotators,)
        checked = []
        for annotator in annotators:
            places = tuple(_number("a rank", rank) for rank in _sequence("the ranks of an annotator", annotator))
            _require_length("ranks", places, num_candidates)
            if any(place is not None and place < 0 for place in places):
                raise RecordError(f"a rank must be 0 or more (0 = best, null = unranked), got {shown(list(places))}.")
            checked.append(places)
        object.__setattr__(self, "ranks", tuple(checked))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is to continue.

    Args:
        prompt: the turns so far; a plain string is one user message.
        columns: whatever else the row holds; reward functions get it by name.
    """

    prompt: tuple[Message, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _messages(self.prompt))
        if not isinstance(self.columns, Mapping) or not all(isinstance(name, str) for name in self.columns):
            raise RecordError("columns must be a mapping of names to values.")
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    def __reduce__(self) -> tuple[type["Prompt"], tuple[Any, ...]]:
        return (Prompt, (self.prompt, dict(self.columns)))  # a mapping proxy cannot be pickled


Record = Text | Demonstration | Ranking | Prompt


def _require_text(subject: str, value: object) -> None:
    if not isinstance(value, str):
        raise RecordError(f"{subject} must be a string, got {shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        # no tokenizer can encode it, and no file hold it
        raise RecordError(f"{subject} must be whole characters, got half a surrogate pair in {shown(value)}.") from None


def _require_length(subject: str, values: tuple[Any, ...], length: int) -> None:
    if len(values) != length:
        raise RecordError(f"{subject} must have one entry per response ({length}), got {len(values)}.")


def _sequence(subject: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise RecordError(f"{subject} must be a list, got {shown(value)}.")
    return tuple(value)


def _number(subject: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise RecordError(f"{subject} must be a finite number or null, got {shown(value)}.")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    messages = _sequence("messages", value)
    if not messages:
        raise RecordError("messages must not be empty.")
    for message in messages:
        if not isinstance(message, Message):
            raise RecordError(f"messages must hold Message records, got {shown(message)}.")
    return messages


def _dense_ranks(scores: Sequence[float | None]) -> tuple[float | None, ...]:
    places = {score: place for place, score in enumerate(sorted({s for s in scores if s is not None}, reverse=True))}
    return tuple(None if score is None else places[score] for score in scores)
