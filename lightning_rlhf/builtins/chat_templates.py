"""The tokenizer's own chat template as a prompt template."""

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_rlhf.errors import TemplateError
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizerTemplate"]

_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_PROBE = "lightning rlhf probe"

Span = tuple[int, int]


class TokenizerTemplate(PromptTemplate):
    """The chat template that comes with the tokenizer.

    What is supervised is read from its generation markers; without them each assistant turn is found by rendering the
    dialogue up to it and past it. Special tokens are recognised everywhere, so this template cannot keep a message from
    writing a turn marker or a stop token: prefer another where prompts are not trusted.
    """

    isolates_messages = False

    def __init__(self) -> None:
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "TokenizerTemplate":
        """The template for this tokenizer, with the special token that ends the assistant's turn as `stop`.

        Raises:
            TemplateError: the tokenizer has no chat template, or one that cannot render a question and its answer.
        """
        if not tokenizer.chat_template:
            raise TemplateError(
                f"tokenizer {tokenizer.name_or_path!r} must have a chat template for the template `tokenizer`, got "
                "none. Use another template, for example `chatml`."
            )
        bound = copy.copy(self)
        bound._tokenizer = tokenizer
        bound.stop = bound._end_of_turn()
        return bound

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue as the tokenizer's chat template writes it, cut at the ends of the assistant's turns.

        Raises:
            TemplateError: the chat template refuses the dialogue, or it does not show which part the assistant wrote.
        """
        text = self._rendered(messages)
        spans = self._spans(messages, text)
        self._check(messages, text, spans)
        segments = []
        place = 0
        for start, end in spans:
            segments += [Segment(text[place:start], supervised=False, control=True)] if start > place else []
            segments.append(Segment(text[start:end], supervised=True, control=True))
            place = end
        if place < len(text):
            segments.append(Segment(text[place:], supervised=False, control=True))
        return segments

    def generation_prompt(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue with the chat template's own generation prompt."""
        return [Segment(self._rendered(messages, generation=True), supervised=False, control=True)]

    def _bound(self) -> "PreTrainedTokenizerBase":
        if self._tokenizer is None:
            raise TemplateError("the template `tokenizer` must be bound to a tokenizer before it renders, got none.")
        return self._tokenizer

    def _fail(self, rule: str) -> NoReturn:
        raise TemplateError(
            f"the chat template of tokenizer {self._bound().name_or_path!r} must {rule}. Use another template, or mend "
            "the chat template, for example with {% generation %} markers."
        )

    def _rendered(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._bound().apply_chat_template(chat, tokenize=False, add_generation_prompt=generation))
        except TemplateError:
            raise
        except Exception as error:  # whatever a template's Jinja code raises
            roles = ", ".join(message.role for message in messages) or "no turn"
            self._fail(f"render a dialogue with the turns {roles}, got {type(error).__name__}: {error}")

    def _end_of_turn(self) -> tuple[str, ...]:
        text = self._rendered([Message("user", f"{_PROBE} 1"), Message("assistant", f"{_PROBE} 2")])
        _, found, tail = text.rpartition(f"{_PROBE} 2")
        if not found:
            self._fail("render the text of the assistant's turn, got a rendering without it")
        tokens = sorted(self._bound().added_tokens_encoder, key=len, reverse=True)
        return next(((token,) for token in tokens if tail.lstrip().startswith(token)), ())

    def _spans(self, messages: Sequence[Message], text: str) -> list[Span]:
        if _MARKER.search(self._bound().get_chat_template()):
            return [(start, self._with_stop(text, end)) for start, end in self._marked(messages)]
        spans = []
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = self._rendered(messages[:index], generation=True)
                whole = self._rendered(messages[: index + 1])
                if not (whole.startswith(before) and text.startswith(whole)):
                    self._fail(
                        "render a dialogue as a continuation of its beginning, got another text at or after turn "
                        f"{index + 1}"
                    )
                spans.append((len(before), self._turn_end(whole, len(before), message.content)))
        return spans

    def _marked(self, messages: Sequence[Message]) -> list[Span]:
        """Spans of characters between generation markers."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tokenizer = self._bound()
        chat = [{"role": message.role, "content": message.content} for message in messages]
        render: Any = render_jinja_template  # its annotations are narrower than what it takes and returns
        _, spans = render(
            conversations=[chat],
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
        return [(start, end) for start, end in spans[0]]

    def _with_stop(self, text: str, end: int) -> int:
        """The end of a span, past the stop string that follows it at once."""
        return next((end + len(stop) for stop in self.stop if text.startswith(stop, end)), end)

    def _turn_end(self, text: str, start: int, content: str) -> int:
        """Where the turn that begins at `start` ends: after its last stop string, else before trailing white space."""
        said = start + len(content) if text.startswith(content, start) else start
        for stop in self.stop:
            place = text.rfind(stop, said)
            if place >= 0 and not text[place + len(stop) :].strip():
                return place + len(stop)
        return max(said, len(text.rstrip()))

    def _check(self, messages: Sequence[Message], text: str, spans: list[Span]) -> None:
        if not any(message.role == "assistant" for message in messages):
            return
        num_supervised = sum(end - start for start, end in spans)
        if not num_supervised:
            self._fail("show what the assistant wrote, got a rendering in which nothing is marked as the assistant's")
        if num_supervised == len(text):
            self._fail("show what the assistant wrote, got a rendering in which all is marked as the assistant's")
        if messages[-1].role == "assistant":
            prompt = self._rendered(messages[:-1], generation=True) if len(messages) > 1 else text[: spans[-1][0]]
            if text[: spans[-1][0]] != prompt:
                self._fail(
                    "begin the assistant's part where its generation prompt ends, got "
                    f"{text[: spans[-1][0]][-40:]!r} and {prompt[-40:]!r}"
                )
