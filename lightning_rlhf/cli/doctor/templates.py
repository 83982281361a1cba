"""Does the template say what was written, is the right part of it learned, and is it the one the model knows?"""

from collections.abc import Iterator

from lightning_rlhf.builtins.templates import PlainTemplate
from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.cli.doctor.tokens import row_ids
from lightning_rlhf.data.template_choice import same_rendering
from lightning_rlhf.data.template_faults import TURNS, joint_fault, supervision_fault
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.plugin_system.interfaces import Segment
from lightning_rlhf.terminal import visible

__all__ = ["RoundTrip", "SupervisedText", "TemplateChoice", "UnknownTokens"]


class RoundTrip(Check):
    """The ids say what the template rendered, and a prompt's ids and its response's are the ids of the dialogue."""

    name = "template round trip"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One for the joint, one for the text."""
        formatter = subject.formatter
        if (fault := joint_fault(formatter)) is not None:
            yield self.failed(visible(fault.finding), fault.fix)
            return
        rendered = "".join(segment.text for segment in _without_tail(formatter.template.render(TURNS)))
        bos, eos = formatter.tokenizer.bos_token or "", formatter.tokenizer.eos_token or ""
        decoded = str(
            formatter.tokenizer.decode(formatter.encode_turns(TURNS)[-1].ids, clean_up_tokenization_spaces=False)
        )
        if _bare(decoded, bos, eos) != _bare(rendered, bos, eos):
            yield self.warned(
                f"the tokenizer does not keep the text: {visible(rendered)} becomes {visible(decoded)}",
                "If the tokenizer lowers case or drops characters, that is how the model was trained; else name the "
                "tokenizer that came with it.",
            )
            return
        yield self.passed(visible(decoded))


class UnknownTokens(Check):
    """The tokenizer has tokens for what the rows say."""

    name = "unknown tokens"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One, where the tokenizer has a token for the unknown."""
        unknown = subject.module.tokenizer.unk_token_id
        ids = [index for row in subject.sample.rows for index in row_ids(row)]
        if unknown is None or not ids:
            return
        share = ids.count(unknown) / len(ids)
        fix = "Use a base whose tokenizer was made for this language; it replaces what it does not know by one token."
        if share > 0.05:
            yield self.failed(f"{share:.0%} of the tokens are unknown to the tokenizer", fix)
        elif share:
            yield self.warned(f"{share:.1%} of the tokens are unknown to the tokenizer", fix)
        else:
            yield self.passed("none in the rows")


class SupervisedText(Check):
    """What the assistant says is learned, and nothing else."""

    name = "supervised text"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        formatter = subject.formatter
        if (fault := supervision_fault(formatter)) is not None:
            yield self.failed(visible(fault.finding), fault.fix)
            return
        rows = formatter.encode_turns(TURNS)
        learned = [index for row in rows for index, supervised in zip(*row, strict=True) if supervised]
        several = f", in {len(rows)} rows: the template writes a turn otherwise once another follows it"
        shown = visible(formatter.shown(learned))
        yield self.passed(f"learned of a dialogue: {shown}{several if len(rows) > 1 else ''}")


class TemplateChoice(Check):
    """The template is the one that the base was trained with."""

    name = "template choice"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        tokenizer, recorded = subject.module.tokenizer, subject.module.recorded_template
        used = subject.data.template or (recorded.create() if recorded else PlainTemplate())
        name = "plain" if isinstance(used, PlainTemplate) else type(used).__name__
        if recorded is not None:
            if self._same(subject):
                yield self.passed(f"{name}, as the base was trained")
            else:
                yield self.warned(
                    f"{name}, but the base was trained with {recorded.class_path}",
                    "Leave `template` out to go on with the base's own.",
                )
        elif tokenizer.chat_template is not None and name == "plain":
            yield self.warned(
                "plain, but the tokenizer has a chat template: a chat model expects its own markers",
                "Set --data.template tokenizer, unless the base is no chat model.",
            )
        else:
            yield self.passed(f"{name}; the base records none")

    @staticmethod
    def _same(subject: Subject) -> bool:
        recorded = subject.module.recorded_template
        if recorded is None or subject.data.template is None:
            return True
        try:
            return same_rendering(subject.data.template, recorded.create(), subject.module.tokenizer)
        except TemplateError:  # the recorded one is not installed here
            return False


def _without_tail(segments: list[Segment]) -> list[Segment]:
    """Less what stands after the last assistant turn, which ids leave out."""
    last = max((place for place, segment in enumerate(segments) if segment.supervised), default=-1)
    return segments[: last + 1]


def _bare(text: str, bos: str, eos: str) -> str:
    for token in (bos, eos):
        text = text.replace(token, "") if token else text
    return text.strip()
