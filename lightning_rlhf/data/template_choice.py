"""Which template a run uses."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.errors import LightningRLHFError, TemplateError
from lightning_rlhf.models import RecordedTemplate
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.records import Message

__all__ = ["PROBES", "choose_template", "look_of", "record_of", "same_rendering"]

PROBES = (
    (Message("user", "q"), Message("assistant", "a"), Message("user", "r"), Message("assistant", "b")),
    (Message("system", "s"), Message("user", "q"), Message("assistant", "a")),
    (Message("user", "q"), Message("assistant", "a"), Message("tool", "t"), Message("assistant", "b")),
)
"""Dialogues that show what a template writes around each role."""


def choose_template(
    given: PromptTemplate | None, record: RecordedTemplate | None, tokenizer: PreTrainedTokenizerBase
) -> PromptTemplate:
    """The given template; else the one that the model was trained with; else plain.

    A given template that renders otherwise than the recorded one warns: the model has learned the other.
    """
    if record is None:
        if given is not None:
            return given
        from lightning_rlhf.builtins.templates import PlainTemplate

        return PlainTemplate()
    if given is None:
        return record.create()
    try:
        same = same_rendering(given, record.create(), tokenizer)
    except TemplateError:  # the recorded one is not installed here, and is not asked for
        same = False
    if not same:
        rank_zero_warn(
            f"the model was trained with the template {record.class_path}, and this run uses {type(given).__name__}, "
            "which does not render the same. Leave `template` out to go on with the model's own."
        )
    return given


def same_rendering(first: PromptTemplate, second: PromptTemplate, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether two templates turn dialogues into the same text, as far as a few dialogues show."""
    try:
        return _looks(first, tokenizer) == _looks(second, tokenizer)
    except LightningRLHFError:
        return False


def record_of(template: PromptTemplate) -> RecordedTemplate | None:
    """What a model's directory records of a template; None where it does not keep its arguments, which is said.

    Then the next stage's config has to name the template.
    """
    try:
        return RecordedTemplate.of(template)
    except TemplateError as error:
        rank_zero_info(f"{error} It is not recorded beside the model: name it in the config of the next stage.")
        return None


def _looks(template: PromptTemplate, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    return look_of(template.bind(tokenizer))


def look_of(bound: PromptTemplate) -> tuple[Any, ...]:
    """What one sees of a template that is bound to a tokenizer: its stop strings and how it renders."""
    return (bound.stop, *(_rendering(bound, probe) for probe in PROBES))


def _rendering(template: PromptTemplate, messages: tuple[Message, ...]) -> list[Segment] | str:
    try:
        return template.render(messages)
    except TemplateError as error:  # such as a template without a system turn
        return str(error)
