"""Faults of a template that make a run learn something else than it should: doctor shows them, a run refuses them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message

__all__ = ["TURNS", "TemplateFault", "bos_fault", "joint_fault", "require_sound_template", "supervision_fault"]

TURNS = (
    Message("user", "Which colour is the sky?"),
    Message("assistant", "It is blue."),
    Message("user", "And at night?"),
    Message("assistant", "Black, with stars."),
)
"""A dialogue that shows the faults."""


class TemplateFault(NamedTuple):
    """What is wrong, and what to do about it."""

    finding: str
    fix: str


def require_sound_template(formatter: PromptFormatter) -> None:
    """Raises `TemplateError` for the first fault."""
    for find in (bos_fault, joint_fault, supervision_fault):
        if (fault := find(formatter)) is not None:
            finding = fault.finding.replace("\n", "⏎")
            raise TemplateError(f"template {type(formatter.template).__name__} must be sound: {finding}. {fault.fix}")


def bos_fault(formatter: PromptFormatter) -> TemplateFault | None:
    """More than one BOS at the beginning of a prompt."""
    bos = formatter.tokenizer.bos_token_id
    ids = formatter.encode_prompt((Message("user", "q"),))
    # where one token is BOS and EOS, or BOS and a turn marker, it stands in the middle of dialogues by right
    scattered = bos not in formatter.stop_ids and not formatter.bos_marks_turns and ids.count(bos) > 1
    if bos is None or not (scattered or ids[:2] == [bos, bos]):
        return None
    return TemplateFault(
        f"more than one {formatter.tokenizer.bos_token} ({bos}) at the beginning: {formatter.shown(ids[:8])}",
        "Write the BOS in the template or leave it to the tokenizer, which adds one where none is: at the very start, "
        "as one token, once.",
    )


def joint_fault(formatter: PromptFormatter) -> TemplateFault | None:
    """A prompt's ids and its response's are not the ids of the dialogue."""
    for turns in _dialogues(formatter):
        whole = formatter.encode_turns(turns)[-1].ids
        joined = formatter.encode_prompt(turns[:-1]) + formatter.encode_response(turns[:-1], turns[-1].content)
        if joined != whole:
            return TemplateFault(
                "what generation continues is not what training saw: prompt and response give "
                f"{formatter.shown(joined)}, the dialogue "
                f"{formatter.shown(whole)}",
                "Let render() of the template write the same text for a turn whether or not another follows it.",
            )
    return None


def supervision_fault(formatter: PromptFormatter) -> TemplateFault | None:
    """Something else is learned than what the assistant says, and the stop token that ends it."""
    fix = "Let render() of the template mark the assistant's turns, with what ends them, as supervised: nothing else."
    for turns in _dialogues(formatter):
        renderings = [formatter.template.render(turns[:end]) for end in formatter.template.turn_ends(turns)]
        text = "".join(part.text if part.supervised else "\n" for segments in renderings for part in segments)
        said = {role: [turn.content for turn in turns if turn.role == role] for role in ("user", "assistant")}
        if others := [content for content in said["user"] if content in text]:
            return TemplateFault(f"what the user says is learned: {others[0]}", fix)
        if missing := [content for content in said["assistant"] if content not in text]:
            return TemplateFault(f"what the assistant says is not learned: {missing[0]}", fix)
        for row in formatter.encode_turns(turns):
            learned = {index for index, supervised in zip(*row, strict=True) if supervised}
            if learned.isdisjoint(formatter.stop_ids):
                return TemplateFault("no stop token is learned: the model would never end a response", fix)
    return None


def _dialogues(formatter: PromptFormatter) -> Iterator[tuple[Message, ...]]:
    """A question with its answer, and a dialogue of two, unless the template refuses it."""
    yield TURNS[:2]
    with suppress(TemplateError):
        formatter.template.render(TURNS)
        yield TURNS
