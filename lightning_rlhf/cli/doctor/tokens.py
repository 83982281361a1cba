"""Do tokenizer, model and template agree on the tokens that end, pad and begin?"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.data.rows import Row
from lightning_rlhf.data.template_faults import TemplateFault, bos_fault
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message
from lightning_rlhf.terminal import visible

__all__ = ["OneBOS", "PadToken", "StopTokens", "Vocabulary"]


class Vocabulary(Check):
    """Every id that the tokenizer can give has an embedding."""

    name = "vocabulary"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        tokenizer, num_embeddings = subject.module.tokenizer, _num_embeddings(subject)
        highest = max(tokenizer.get_vocab().values())
        used = max((max(ids) for ids in map(row_ids, subject.sample.rows) if ids), default=0)
        facts = f"ids up to {highest}, embeddings for {num_embeddings}"
        fix = "Use the tokenizer that came with the model, or a base whose embeddings were resized for it."
        if used >= num_embeddings:
            yield self.failed(f"the rows hold id {used}, the model has embeddings for {num_embeddings}", fix)
        elif highest >= num_embeddings:
            yield self.warned(f"{facts}: the rows read so far hold none above {used}", fix)
        else:
            yield self.passed(facts)


class StopTokens(Check):
    """Something ends a response, and it is what the template and the model end turns with."""

    name = "stop tokens"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One for the stop tokens, and one for each doubt about them."""
        try:
            formatter = subject.formatter
        except TemplateError as error:
            yield self.failed(str(error), "Give the tokenizer an EOS token, or name a template whose stop it knows.")
            return
        stops, tokenizer = formatter.stop_ids, formatter.tokenizer
        yield self.passed(f"a response ends at {_named(tokenizer, stops)}")
        several = [text for text in formatter.template.stop if text and not self._is_stop(subject, text)]
        if several:
            shown = " and ".join(visible(text) for text in several)
            yield self.warned(
                f"{shown} is several tokens of this tokenizer: it cannot stop a response, "
                f"{_named(tokenizer, stops[:1])} has to",
                "Use a template that the tokenizer knows, or let SFT teach the model to end with the EOS.",
            )
        other = [index for index in _own_stops(subject) if index not in stops]
        if other:
            yield self.warned(
                f"the base was published as ending its turns with {_named(tokenizer, other)}, too",
                "Use the template that the base was trained with: `template: tokenizer` for a chat model.",
            )

    @staticmethod
    def _is_stop(subject: Subject, text: str) -> bool:
        return any(subject.formatter.response_tokens([index]) == [text] for index in subject.formatter.stop_ids)


class PadToken(Check):
    """The padding id is one that the model knows."""

    name = "pad token"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        tokenizer = subject.module.tokenizer
        pad, num_embeddings = tokenizer.pad_token_id, _num_embeddings(subject)
        if pad is None:
            yield self.passed("none: none is needed, masks come from lengths")
        elif pad >= num_embeddings:
            yield self.failed(
                f"{_named(tokenizer, [pad])} has no embedding, the model has {num_embeddings}",
                "Give the tokenizer a pad token that it had before, such as its EOS, and save it beside the model.",
            )
        elif pad in subject.formatter.stop_ids:
            yield self.passed(f"{_named(tokenizer, [pad])}, a stop token: harmless here, masks come from lengths")
        else:
            yield self.passed(_named(tokenizer, [pad]))


class OneBOS(Check):
    """A row begins with one BOS, or with none."""

    name = "one BOS"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        formatter = subject.formatter
        bos = formatter.tokenizer.bos_token_id
        if bos is None:
            yield self.passed("the tokenizer has no BOS")
            return
        named = _named(formatter.tokenizer, [bos])
        doubled = next((ids for ids in map(row_ids, subject.sample.rows) if ids[:2] == [bos, bos]), None)
        fault = bos_fault(formatter)
        if fault is None and doubled is not None:
            shown = formatter.shown(doubled[:8])
            fault = TemplateFault(f"more than one {named} at the beginning: {shown}", "Leave the BOS out of the rows.")
        if fault is not None:
            yield self.failed(visible(fault.finding), fault.fix)
        elif formatter.bos_marks_turns:
            yield self.passed(f"{named} begins every turn, as the template writes it")
        else:
            used = bos in formatter.encode_prompt((Message("user", "q"),))
            yield self.passed(f"{named} first, once" if used else f"{named} is not used")


def row_ids(row: Row) -> list[int]:
    """The ids of a row of any stage: a prompt and its first candidate."""
    if "input_ids" in row:
        return list(row["input_ids"])
    return [*row["prompt_ids"], *next((ids for ids in row.get("responses", ()) if ids), ())]


def _num_embeddings(subject: Subject) -> int:
    trained: nn.Module = next(iter(subject.module.networks()))
    model = next(module for module in trained.modules() if isinstance(module, PreTrainedModel))
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.num_embeddings)


def _own_stops(subject: Subject) -> list[int]:
    """What the base's files say that generation ends with; loading leaves it aside for the template's."""
    trained = next(iter(subject.module.networks()))
    model = next(module for module in trained.modules() if isinstance(module, PreTrainedModel))
    found: int | list[int] | None = None
    with suppress(OSError, ValueError):  # a component, a .gguf file, a directory without the file
        config = GenerationConfig.from_pretrained(str(model.name_or_path), local_files_only=True)
        found = config.eos_token_id
    return [found] if isinstance(found, int) else list(found or [])


def _named(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    return " or ".join(f"{visible(str(tokenizer.convert_ids_to_tokens(index)))} ({index})" for index in ids)
