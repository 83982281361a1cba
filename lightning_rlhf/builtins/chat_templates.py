"""The tokenizer's own chat template as a prompt template."""

import copy
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lightning_rlhf.builtins.chat_habits import Habits
from lightning_rlhf.builtins.prefill import turn_opening
from lightning_rlhf.builtins.template_clock import with_fixed_date
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizerTemplate"]

_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

_KEPT_ANSWERS = 256

Span = tuple[int, int]


class _Answer(NamedTuple):
    """An assistant turn as the last one of its dialogue: as generation writes it."""

    prompt: str
    """What the policy continues."""
    response: str
    """What it writes, up to and with its first stop token."""
    text: str
    """The whole dialogue, with what the chat template writes after the response."""

    @property
    def span(self) -> Span:
        """Where the response stands in a text that begins as this dialogue."""
        return len(self.prompt), len(self.prompt) + len(self.response)


class TokenizerTemplate(PromptTemplate):
    """The chat template that comes with the tokenizer.

    A prompt is what the chat template writes for generation, in every stage. A response is what it writes after that
    for the assistant's turn as the last one, up to its first stop token. Where a later turn changes how an earlier one
    is written (thinking that is dropped from the history, an end marker of the last turn alone), the dialogue becomes
    several renderings, so that each turn is learned as generation writes it. Generation markers decide what is learned
    where there are any. Special tokens are recognised everywhere, so this template cannot keep a message from writing
    a turn marker or a stop token: prefer another where prompts are not trusted.
    """

    isolates_messages = False

    def __init__(self) -> None:
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._habits = Habits()
        self._moment: datetime | None = None
        self._known: dict[tuple[Message, ...], _Answer] = {}
        self._opening: str | None = None

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
        bound._known = {}
        bound._habits = Habits.of(tokenizer, bound._rendered)
        bound.stop = bound._habits.stop
        bound._opening = turn_opening(bound._rendered)
        return bound

    def dated(self, moment: datetime) -> "TokenizerTemplate":
        """The template for which `strftime_now` tells this moment."""
        dated = copy.copy(self)
        dated._moment = moment
        dated._known = {}
        return dated

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue as the chat template writes it; those turns supervised that stand in it as generated.

        Raises:
            TemplateError: the chat template refuses the dialogue, or its markers do not show what the assistant wrote.
        """
        marked = self._marked(messages)
        if marked is not None:
            return _segments(*marked)
        answers = self._answers(messages)
        text = self._text(messages, answers)
        return _segments(text, [answers[place].span for place in self._standing(text, answers)])

    def turn_ends(self, messages: Sequence[Message]) -> list[int]:
        """After all, and after each turn that does not stand in a longer rendering as it was generated."""
        turns = [place for place, message in enumerate(messages) if message.role == "assistant"]
        if not turns or self._marked(messages) is not None:
            return [len(messages)]
        answers = self._answers(messages)
        ends, text, end, unlearned = [], self._text(messages, answers), len(messages), set(range(len(answers)))
        while True:
            standing = self._standing(text, answers)
            if not unlearned.isdisjoint(standing):
                ends.append(end)
            unlearned.difference_update(standing)
            if not unlearned:
                return ends[::-1]
            last = max(unlearned)
            text, end = answers[last].text, turns[last] + 1

    def generation_prompt(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue with the chat template's own generation prompt, cut where `render` cuts it."""
        marked = self._marked(messages, generation=True)
        if marked is not None:
            return _segments(*marked)
        text = self._rendered(messages, generation=True)
        answers = self._answers(messages)
        return _segments(text, [answers[place].span for place in self._standing(text, answers)])

    def prefilled(self, prompt: str) -> str:
        """What the generation prompt wrote in the assistant's name, such as `<think>` and a line break."""
        if self._opening is None or self._opening not in prompt:
            return ""
        return prompt.rpartition(self._opening)[2]

    def _bound(self) -> "PreTrainedTokenizerBase":
        if self._tokenizer is None:
            raise TemplateError("the template `tokenizer` must be bound to a tokenizer before it renders, got none.")
        return self._tokenizer

    def _fail(self, rule: str, advice: str = "") -> NoReturn:
        advice = advice or (
            "Use another template, or mend the chat template, for example with {% generation %} markers."
        )
        raise TemplateError(f"the chat template of tokenizer {self._bound().name_or_path!r} must {rule}. {advice}")

    def _rendered(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        try:
            rendered = self._bound().apply_chat_template(
                _chat(messages), chat_template=self._chat_template(), tokenize=False, add_generation_prompt=generation
            )
            return str(rendered)
        except TemplateError:
            raise
        except Exception as error:  # whatever a template's Jinja code raises
            roles = ", ".join(message.role for message in messages) or "no turn"
            self._fail(
                f"render a dialogue with the turns {roles}, got {type(error).__name__}: {str(error).rstrip('.')}",
                "Mend the row, use another template, or mend the chat template.",
            )

    def _chat_template(self) -> str:
        template = str(self._bound().get_chat_template())
        return template if self._moment is None else with_fixed_date(template, self._moment)

    def _answers(self, messages: Sequence[Message]) -> list[_Answer]:
        turns = [place for place, message in enumerate(messages) if message.role == "assistant"]
        return [self._known_answer(tuple(messages[: place + 1])) for place in turns]

    def _known_answer(self, messages: tuple[Message, ...]) -> _Answer:
        """The answer that a dialogue ends with: the same beginnings are asked for again and again."""
        if messages not in self._known:
            if len(self._known) >= _KEPT_ANSWERS:
                self._known.clear()
            self._known[messages] = self._answer(messages[:-1], messages[-1])
        return self._known[messages]

    def _answer(self, before: Sequence[Message], message: Message) -> _Answer:
        whole = self._rendered([*before, message])
        prompt = self._prompt_of(before, whole, message.content)
        written = whole.removeprefix(prompt) if whole.startswith(prompt) else ""
        if written and self._habits.keeps(message.content, written):
            return _Answer(prompt, self._habits.response(written, message.content), whole)
        # what generation continues is the truth: the response is put after it as the row says it
        response = self._habits.restored(message.content, whole)
        return _Answer(prompt, response, prompt + response)

    def _prompt_of(self, before: Sequence[Message], whole: str, content: str) -> str:
        try:
            return self._rendered(before, generation=True)
        except TemplateError:
            if before:
                raise
            return whole[: max(whole.find(content), 0)]  # many chat templates refuse an empty dialogue

    def _text(self, messages: Sequence[Message], answers: Sequence[_Answer]) -> str:
        """The whole dialogue."""
        return answers[-1].text if messages[-1].role == "assistant" else self._rendered(messages)

    def _standing(self, text: str, answers: Sequence[_Answer]) -> list[int]:
        """Which turns stand in a text as they were generated. One that nothing ends does so at the very end only."""
        return [
            place
            for place, answer in enumerate(answers)
            if text == answer.text
            or (self._habits.ended(answer.response) and text.startswith(answer.prompt + answer.response))
        ]

    def _marked(self, messages: Sequence[Message], *, generation: bool = False) -> tuple[str, list[Span]] | None:
        """The text and the turns in it by generation markers; None where there are none, or they lead astray.

        They do where a prompt is no beginning of the text, or where nothing ends a turn before another follows.
        """
        if not _MARKER.search(self._bound().get_chat_template()):
            return None
        text, marks = self._marks(messages, generation=generation)
        turns = [place for place, message in enumerate(messages) if message.role == "assistant"]
        if not generation:
            self._check_marks(text, marks, turns)
        prompts = [self._prompt_of(messages[:place], text, messages[place].content) for place in turns]
        if not all(text.startswith(prompt) for prompt in prompts):
            return None
        spans = self._marked_spans(text, marks, [len(prompt) for prompt in prompts])
        if (
            not generation
            and messages[-1].role == "assistant"
            and len(prompts[-1]) not in {start for start, _ in spans}
        ):
            last = text[: spans[-1][0]] if spans else ""
            self._fail(
                f"begin the assistant's part where its generation prompt ends, got {last[-40:]!r} and "
                f"{prompts[-1][-40:]!r}"
            )
        if any(not self._habits.ended(text[start:end]) for start, end in spans if end < len(text.rstrip())):
            return None
        return text, spans

    def _marked_spans(self, text: str, marks: Sequence[Span], begins: Sequence[int]) -> list[Span]:
        """What is learned of what is marked: from a prompt's end, through the first stop token of its turn."""
        spans = []
        for begin, after in pairwise([*begins, len(text) + 1]):
            for start, end in marks:
                if begin <= end and start < after:
                    length = self._habits.through_stop(text[max(start, begin) :], end - max(start, begin))
                    spans.append((max(start, begin), max(start, begin) + length))
                    if self._habits.ended(text[spans[-1][0] : spans[-1][1]]):
                        break
        return [(start, end) for start, end in spans if end > start or start == begins[-1]]

    def _marks(self, messages: Sequence[Message], *, generation: bool) -> tuple[str, list[Span]]:
        """The text, and the spans of characters between generation markers."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tokenizer = self._bound()
        render: Any = render_jinja_template  # its annotations are narrower than what it takes and returns
        self._rendered(messages, generation=generation)  # refuses in our own words
        texts, spans = render(
            conversations=[_chat(messages)],
            chat_template=self._chat_template(),
            return_assistant_tokens_mask=True,
            add_generation_prompt=generation,
            **tokenizer.special_tokens_map,
        )
        return str(texts[0]), [(start, end) for start, end in spans[0]]

    def _check_marks(self, text: str, marks: Sequence[Span], turns: Sequence[int]) -> None:
        if turns and not marks:
            self._fail("show what the assistant wrote, got a rendering in which nothing is marked as the assistant's")
        if turns and sum(end - start for start, end in marks) == len(text):
            self._fail("show what the assistant wrote, got a rendering in which all is marked as the assistant's")


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates read them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _segments(text: str, spans: Iterable[Span]) -> list[Segment]:
    """The text, cut at the ends of the spans, which are supervised."""
    segments, place = [], 0
    for start, end in spans:
        segments += [Segment(text[place:start], supervised=False, control=True)] if start > place else []
        segments.append(Segment(text[start:end], supervised=True, control=True))
        place = end
    if place < len(text):
        segments.append(Segment(text[place:], supervised=False, control=True))
    return segments
