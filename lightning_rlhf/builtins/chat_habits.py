"""The habits of a chat template, as a few dialogues show them."""

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

__all__ = ["Habits"]

_PROBE = "lightning rlhf probe"
_QUESTION, _ANSWER, _NEXT = (f"{_PROBE} {number}" for number in (1, 2, 3))


class _Render(Protocol):
    def __call__(self, messages: "Sequence[Message]", *, generation: bool = False) -> str: ...


class Habits(NamedTuple):
    """What a chat template writes around the assistant's text, and where a turn ends."""

    stop: tuple[str, ...] = ()
    """The special token that ends the assistant's turn."""
    endings: tuple[str, ...] = ()
    """It and the tokenizer's EOS."""
    lead: str = ""
    """What stands between the generation prompt and the text."""
    prefill: str = ""
    """What the generation prompt writes into the turn that the rendering of a whole dialogue does not (`<think>`)."""
    ending: str = ""
    """What ends a last turn, up to its first stop token."""
    trailer: str = ""
    """What follows the stop tokens of a last turn: some chat templates write the generation prompt in any case."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", render: _Render) -> "Habits":
        """What a question and its answer show.

        Args:
            tokenizer: whose special tokens end a turn.
            render: the chat template.

        Raises:
            TemplateError: the chat template refuses them, or leaves the answer out.
        """
        question, answer = Message("user", _QUESTION), Message("assistant", _ANSWER)
        whole = render([question, answer])
        head, found, tail = whole.rpartition(_ANSWER)
        if not found:
            raise TemplateError(
                f"the chat template of tokenizer {tokenizer.name_or_path!r} must render the text of the assistant's "
                "turn, got a rendering without it. Use another template, or mend the chat template."
            )
        prompt = render([question], generation=True)
        stop = _stop(tokenizer, tail, _tail_in_history(render, [question, answer, Message("user", _NEXT)]))
        eos = str(tokenizer.eos_token) if tokenizer.eos_token else ""
        habits = cls(
            stop,
            tuple(dict.fromkeys([*stop, *([eos] if eos else [])])),
            lead=head.removeprefix(prompt) if head.startswith(prompt) else "",
            prefill=prompt.removeprefix(head) if prompt.startswith(head) else "",
        )
        habits = habits._replace(trailer=habits.rest(tail))
        return habits._replace(ending=tail[: habits.through_stop(tail)])

    def keeps(self, content: str, written: str) -> bool:
        """Whether a turn holds all that its message says: some chat templates drop the thinking even of the last."""
        said, kept = "".join(content.split()), "".join(written.split())
        return said in kept or len(kept) >= len(said)

    def response(self, written: str, content: str) -> str:
        """What generation writes of a turn: through its first stop token, else without trailing white space."""
        said = len(content) if written.startswith(content) else 0
        return written[: said + self.through_stop(written[said:])]

    def restored(self, content: str, whole: str) -> str:
        """The response of a message that the chat template does not write after its own generation prompt.

        Args:
            content: what the message says.
            whole: the rendering with it as the last turn: it tells whether the template trims the text.
        """
        begun = self.prefill.strip()
        if begun and content.lstrip().startswith(begun):
            content = content.lstrip().removeprefix(begun)
            content = content.removeprefix("\n") if self.prefill.endswith("\n") else content
        elif content + self.ending not in whole and content.strip() + self.ending in whole:
            content = content.strip()
        return self.lead + content + self.ending

    def through_stop(self, text: str, least: int | None = None) -> int:
        """Where a turn ends in a text.

        That is after the first of the stop tokens with which it closes; else before trailing white space.

        Args:
            text: the turn, and for `least` what follows it.
            least: the length of the turn where more follows; a stop token right after it belongs to it.
        """
        if least is not None:
            follows = next((len(ending) for ending in self.endings if text.startswith(ending, least)), 0)
            text = text[: least + follows]
        found = self._closing.search(text) if self.endings else None
        return found.end(1) if found else len(text.rstrip()) if least is None else least

    def ended(self, response: str) -> bool:
        """Whether a stop token ends a response."""
        return response.endswith(self.endings) if self.endings else False

    def rest(self, tail: str) -> str:
        """What follows the first stop token, less further ones and white space."""
        found = re.search(rf"{self._stops}(?:\s|{self._stops})*", tail) if self.endings else None
        return tail[found.end() :] if found else ""

    @property
    def _stops(self) -> str:
        return f"(?:{'|'.join(map(re.escape, sorted(self.endings, key=len, reverse=True)))})"

    @property
    def _closing(self) -> re.Pattern[str]:
        return re.compile(rf"({self._stops})(?:\s|{self._stops})*(?:{re.escape(self.trailer)})?\Z")


def _tail_in_history(render: _Render, messages: "Sequence[Message]") -> str:
    """What stands between an answer and the next question."""
    try:
        text = render(messages)
    except TemplateError:  # such as a template of single turns
        return ""
    return text.rpartition(_ANSWER)[2].partition(_NEXT)[0]


def _stop(tokenizer: "PreTrainedTokenizerBase", tail: str, tail_in_history: str) -> tuple[str, ...]:
    """The token that ends the assistant's turn.

    That is the EOS where turns of the history end with it, whatever marker stands before it; else the first added token
    after the text.
    """
    if tokenizer.eos_token and str(tokenizer.eos_token) in tail_in_history:
        return (str(tokenizer.eos_token),)
    tokens = sorted(tokenizer.added_tokens_encoder, key=len, reverse=True)
    return next(((token,) for token in tokens if tail.lstrip().startswith(token)), ())
