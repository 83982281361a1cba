"""Renderings of a template, looked at as characters."""

from collections.abc import Sequence
from itertools import groupby

from lightning_rlhf.plugin_system.interfaces import Segment

__all__ = ["bracketed", "joined", "learned_part", "replaced", "space_before", "supervision", "text_of"]


def text_of(segments: Sequence[Segment]) -> str:
    """The rendering."""
    return "".join(segment.text for segment in segments)


def supervision(segments: Sequence[Segment]) -> list[bool]:
    """Whether each character is supervised."""
    return [segment.supervised for segment in segments for _ in segment.text]


def bracketed(segments: Sequence[Segment]) -> str:
    """Supervised text in [brackets]."""
    runs = groupby((segment for segment in segments if segment.text), key=lambda segment: segment.supervised)
    return repr("".join(f"[{text_of(list(run))}]" if supervised else text_of(list(run)) for supervised, run in runs))


def joined(segments: Sequence[Segment]) -> list[tuple[str, bool, bool]]:
    """Segments without empty ones, neighbours of one kind joined."""
    kept = (segment for segment in segments if segment.text)
    runs = groupby(kept, key=lambda segment: (segment.supervised, segment.control))
    return [(text_of(list(run)), *kind) for kind, run in runs]


def replaced(segment: Segment, old: str, new: str) -> Segment:
    """The segment with other text in place of some of its own."""
    return Segment(segment.text.replace(old, new), segment.supervised, segment.control)


def learned_part(segments: Sequence[Segment]) -> list[Segment]:
    """The segments up to the last supervised one: what the formatter encodes of a dialogue that the assistant ends."""
    last = max((place for place, segment in enumerate(segments) if segment.supervised), default=len(segments) - 1)
    return list(segments[: last + 1])


def space_before(text: str, end: int) -> int:
    """How many characters of white space stand before a place: a template may count them to what follows."""
    return end - len(text[:end].rstrip())
