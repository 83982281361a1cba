"""The contract of prompt templates."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from lightning_rlhf.errors import TemplateError
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.records import Message
from lightning_rlhf.testing.contract import Contract, described
from lightning_rlhf.testing.renderings import (
    bracketed,
    joined,
    learned_part,
    replaced,
    space_before,
    supervision,
    text_of,
)
from lightning_rlhf.testing.samples import DIALOGUES, MARKER_TEXTS
from lightning_rlhf.testing.stand_ins import byte_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_rlhf.data.tokenization import PromptFormatter

__all__ = ["PromptTemplateContract"]

Dialogue = Sequence[Message]

_PLACEHOLDER = "(a message)"
_MARKED = (
    (Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "Bye."), Message("assistant", "See you.")),
    (Message("system", "Be kind."), Message("user", "Hi."), Message("assistant", "Hello.")),
    (Message("user", "Hi."), Message("assistant", "Wait."), Message("tool", "42"), Message("assistant", "It is 42.")),
)


class PromptTemplateContract(Contract[PromptTemplate]):
    """What every prompt template must do.

    A template may refuse a dialogue with a `TemplateError`, such as one with a system message; it must take the first.

    Example:
        class TestMyFormat(PromptTemplateContract):
            component = "my_format"
    """

    __test__ = False
    kind = "prompt_template"

    dialogues: ClassVar[Sequence[Dialogue]] = DIALOGUES
    """What is rendered; each ends with the assistant."""

    def tokenizer(self, markers: Sequence[str] = ()) -> "PreTrainedTokenizerBase":
        """What the template is bound to.

        Args:
            markers: what must be special tokens of it.
        """
        return _tokenizer(tuple(markers))

    def test_renders_segments(self) -> None:
        """Of a question and its answer at least."""
        template = self.bound()
        self._rendered(template, self.dialogues[0])
        for _ in self._renderings(template):  # what is no segment is found by the way
            pass

    def test_renders_the_same_again(self) -> None:
        """From the same template, and from another instance."""
        template = self.bound()
        for messages, first in self._renderings(template):
            for again in (self._rendered(template, messages), self._rendered(self.bound(), messages)):
                assert again == first, (
                    f"{self.subject} must be deterministic, got {text_of(first)!r} and {text_of(again)!r}."
                )

    def test_contains_every_message(self) -> None:
        """In order."""
        for messages, segments in self._renderings(self.bound()):
            self._spans(messages, text_of(segments))

    def test_segments_join_to_the_rendering(self) -> None:
        """The ids of the segments decode to their text; a chat template for transformers writes the same."""
        for tokenizer in (self.tokenizer(), self.tokenizer(self._markers())):
            formatter = self._formatter(tokenizer)
            chat_template = getattr(formatter.template, "chat_template", None)
            for messages, segments in self._renderings(formatter.template):
                added = {tokenizer.bos_token_id, tokenizer.eos_token_id}
                ids = [index for index in formatter.encode(messages).ids if index not in added]
                decoded, expected = tokenizer.decode(ids), _written(learned_part(segments), tokenizer)
                assert decoded == expected, (
                    f"the segments of {self.subject} must join to the rendering, got the ids of {decoded!r} for "
                    f"{expected!r}."
                )
                if isinstance(chat_template, str):
                    chat = [{"role": message.role, "content": message.content} for message in messages]
                    written = tokenizer.apply_chat_template(chat, chat_template=chat_template, tokenize=False)
                    rendering = _written(segments, tokenizer)
                    assert str(written).replace(str(tokenizer.eos_token), "") == rendering, (
                        f"the chat_template of {self.subject} must render the same, got {written!r} for {rendering!r}."
                    )

    def test_supervises_exactly_what_the_assistant_says(self) -> None:
        """Each assistant turn with what ends it, and nothing else."""
        template = self.bound()
        for messages, segments in self._renderings(template):
            text, mask = text_of(segments), supervision(segments)
            spans = self._spans(messages, text)
            place, tail = 0, 0
            for index, (message, (start, end)) in enumerate(zip(messages, spans, strict=True)):
                speaks = message.role == "assistant"
                assert all(flag == speaks for flag in mask[start:end]), (
                    f"{self.subject} must supervise {'all' if speaks else 'nothing'} that the {message.role} says, got "
                    f"{bracketed(segments)} (supervised in brackets)."
                )
                before = mask[place + tail : start - space_before(text, start) if speaks else start]
                assert not any(before), (
                    f"{self.subject} must not supervise what stands before the {message.role}'s message, got "
                    f"{bracketed(segments)} (supervised in brackets)."
                )
                place, tail = end, self._ending(template, messages[: index + 1]) if speaks else 0
                if speaks:
                    self._check_stop(template, segments, end)

    def test_generation_prompt_begins_the_rendering(self) -> None:
        """The prompt, and then the response, is the whole dialogue: in text and in ids."""
        formatter = self._formatter(self.tokenizer(self._markers()))
        for messages, _ in self._renderings(formatter.template):
            for index, message in enumerate(messages):
                if message.role != "assistant" or not index:
                    continue
                before, turns = messages[:index], messages[: index + 1]
                prompt, whole = self._prompt(formatter.template, before), self._rendered(formatter.template, turns)
                text, rest = text_of(prompt), text_of(whole)[len(text_of(prompt)) :]
                assert text_of(whole).startswith(text), (
                    f"the generation prompt of {self.subject} must be a prefix of the rendering, got {text!r} and "
                    f"{text_of(whole)!r}."
                )
                assert rest.lstrip().startswith(message.content.strip()), (
                    f"the generation prompt of {self.subject} must end where the response begins, got {text!r} before "
                    f"{rest!r}."
                )
                ids = formatter.encode_prompt(before) + formatter.encode_response(before, message.content)
                assert ids == formatter.encode(turns).ids, (
                    f"the generation prompt of {self.subject} and a response must have the ids of the dialogue, got "
                    f"{formatter.tokenizer.decode(ids)!r}."
                )

    def test_no_message_writes_a_marker(self) -> None:
        """Text that looks like a marker or a special token stays text, and leaves what is supervised as it was."""
        if not self.make().isolates_messages:
            return  # `exemptions` says so
        markers = self._markers()
        formatter = self._formatter(self.tokenizer(markers))
        special = {*formatter.tokenizer.added_tokens_decoder, *formatter.stop_ids}
        hostile = {text.strip() for text in (*MARKER_TEXTS, *markers, *formatter.tokenizer.all_special_tokens)}
        for dialogue in _MARKED:
            for index in range(len(dialogue)):
                plain = _with(dialogue, index, _PLACEHOLDER)
                try:
                    segments = formatter.template.render(plain)
                except TemplateError:
                    break
                shown = bracketed(segments)
                assert not any(_PLACEHOLDER in segment.text for segment in segments if segment.control), (
                    f"{self.subject} must not put text of a message into a control segment, got {shown}."
                )
                expected_ids = [token for token in formatter.encode(plain).ids if token in special]
                for text in sorted(hostile):
                    messages = _with(dialogue, index, text)
                    got = self._rendered(formatter.template, messages)
                    expected = [replaced(segment, _PLACEHOLDER, text) for segment in segments]
                    assert joined(got) == joined(expected), (
                        f"{self.subject} must take what a message says as text, got {bracketed(got)} instead of "
                        f"{bracketed(expected)} (supervised in brackets)."
                    )
                    ids = [token for token in formatter.encode(messages).ids if token in special]
                    assert ids == expected_ids, (
                        f"no message may write a special token through {self.subject}, got "
                        f"{formatter.tokenizer.convert_ids_to_tokens(ids)} for {text_of(got)!r}."
                    )

    def test_is_rebuilt_from_its_arguments(self) -> None:
        """A model's directory records the template by its arguments, which it keeps as attributes."""
        from lightning_rlhf.models import RecordedTemplate

        template = self.make()
        for name, parameter in inspect.signature(type(template)).parameters.items():
            kept = hasattr(template, name) or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            assert kept, f"{self.subject} must keep its argument {name!r} as an attribute of that name, got none."
        try:
            rebuilt = type(template)(**dict(RecordedTemplate.of(template).init_args))
        except Exception as error:
            raise AssertionError(
                f"{self.subject} must be rebuilt from its attributes, got {described(error)}."
            ) from error
        for messages, segments in self._renderings(self.bound()):
            again = self._rendered(rebuilt.bind(self.tokenizer()), messages)
            assert again == segments, (
                f"{self.subject} must render the same when it is rebuilt from its attributes, got {text_of(again)!r} "
                f"instead of {text_of(segments)!r}."
            )

    def exemptions(self) -> list[str]:
        """That messages may write markers, for a template that says so."""
        if self.make().isolates_messages:
            return []
        return ["text in a message may become a turn marker or a special token (isolates_messages is False)"]

    def bound(self) -> PromptTemplate:
        """A new template, bound to the tokenizer."""
        bound = self.make().bind(self.tokenizer())
        assert isinstance(bound, PromptTemplate), (
            f"bind of {self.subject} must return a PromptTemplate, got a {type(bound).__name__}."
        )
        return bound

    def _formatter(self, tokenizer: "PreTrainedTokenizerBase") -> "PromptFormatter":
        from lightning_rlhf.data.tokenization import PromptFormatter

        self.bound()  # tells of a bind that returns something else
        return PromptFormatter(self.make(), tokenizer)

    def _renderings(self, template: PromptTemplate) -> Iterator[tuple[Dialogue, list[Segment]]]:
        """The dialogues, less those that the template refuses."""
        for messages in self.dialogues:
            try:
                template.render(messages)
            except TemplateError:
                continue
            except Exception:  # told of below
                pass
            yield messages, self._rendered(template, messages)

    def _rendered(self, template: PromptTemplate, messages: Dialogue) -> list[Segment]:
        return self._segments(template.render, messages, "render")

    def _prompt(self, template: PromptTemplate, messages: Dialogue) -> list[Segment]:
        return self._segments(template.generation_prompt, messages, "have a generation prompt for")

    def _segments(
        self, render: Callable[[Dialogue], Iterable[Segment]], messages: Dialogue, task: str
    ) -> list[Segment]:
        """What a method of the template returns, found to be of the right form."""
        try:
            segments = list(render(messages))
        except Exception as error:
            roles = ", ".join(message.role for message in messages)
            raise AssertionError(f"{self.subject} must {task} the turns {roles}, got {described(error)}.") from error
        for segment in segments:
            assert isinstance(segment, Segment), (
                f"{self.subject} must {task} dialogues in segments, got {segment!r:.80}."
            )
            assert isinstance(segment.text, str), (
                f"a segment of {self.subject} must hold text, got {segment.text!r:.80}."
            )
        return segments

    def _spans(self, messages: Dialogue, text: str) -> list[tuple[int, int]]:
        """Where each message stands in the rendering."""
        place = 0
        spans = []
        for message in messages:
            content = message.content.strip()
            start = text.find(content, place)
            assert start >= 0, (
                f"{self.subject} must render every message, got {text!r} without {content!r} in its place."
            )
            place = start + len(content)
            spans.append((start, place))
        return spans

    def _ending(self, template: PromptTemplate, messages: Dialogue) -> int:
        """How many characters a template writes after a last assistant message: what may end its turn."""
        text = text_of(self._rendered(template, messages))
        return len(text) - self._spans(messages, text)[-1][1]

    def _check_stop(self, template: PromptTemplate, segments: list[Segment], end: int) -> None:
        text, mask = text_of(segments), supervision(segments)
        for stop in template.stop:
            if stop and text.startswith(stop, end):
                assert all(mask[end : end + len(stop)]), (
                    f"{self.subject} must supervise the {stop!r} that ends an assistant turn, got "
                    f"{bracketed(segments)} (supervised in brackets)."
                )

    def _markers(self) -> list[str]:
        """What the template writes around messages, and its stop strings."""
        template = self.bound()
        written = [
            segment.text for _, segments in self._renderings(template) for segment in segments if segment.control
        ]
        if not template.isolates_messages:
            written = []
        return list(dict.fromkeys(text.strip() for text in (*template.stop, *written) if len(text.strip()) > 1))


@cache
def _tokenizer(markers: tuple[str, ...]) -> "PreTrainedTokenizerBase":
    return byte_tokenizer(markers, bos=bool(markers))


def _with(dialogue: Dialogue, index: int, content: str) -> tuple[Message, ...]:
    """The dialogue with one message that says something else."""
    return tuple(Message(turn.role, content) if place == index else turn for place, turn in enumerate(dialogue))


def _written(segments: Sequence[Segment], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The rendering less the BOS and EOS that the template writes: the formatter adds them where it does not."""
    return "".join(
        segment.text.replace(str(tokenizer.bos_token), "").replace(str(tokenizer.eos_token), "")
        if segment.control
        else segment.text
        for segment in segments
    )
