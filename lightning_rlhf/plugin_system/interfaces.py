"""The base classes of components. They import no torch, so that a plug-in's names can be listed at once."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message, Record

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "SPLITS",
    "DataSource",
    "ModelSource",
    "PromptTemplate",
    "RankingConverter",
    "RewardFunction",
    "Segment",
]

SPLITS = ("train", "validation", "test")

Scores = Sequence[float | None] | Sequence[Sequence[float] | None]
"""A number per response, or a list per response with one for each of its tokens; None: does not apply to it."""


class _Configurable:
    """What the components of all kinds share."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Arguments that make a working component, as plain data: `plugins check` builds it with them and `plugins show`
    writes them into its snippet. Needed where an argument has no default; they should work on any machine, offline."""


class DataSource(_Configurable, ABC):
    """Where records come from."""

    offline: ClassVar[bool] = False
    """It promises to need no network; its contract test holds it to that."""

    @abstractmethod
    def load(self, split: str) -> Iterable[Record]:
        """The records of one split.

        Repeatable: every call yields the same records in the same order. One kind of record per source. A split that
        the source does not have is an empty iterable. Has a length where it can be known.

        Args:
            split: one of train, validation, test.
        """

    def for_kinds(self, kinds: Sequence[type[Record]]) -> "DataSource":
        """This source for a data module that reads these kinds of record; what is returned is loaded instead of it.

        The source itself, as here, unless a row of it can be read as more than one kind: of a null response the rows
        of files are bad ones to who reads demonstrations, and prompts to who reads prompts.

        Args:
            kinds: record classes; the first is what a row that fits none of them should have been.
        """
        return self


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered dialogue.

    Args:
        text: the piece.
        supervised: the assistant wrote it, so that supervised fine-tuning learns it.
        control: the template wrote it, and special tokens in it are recognised. Text that came out of a message is
            never control, so that no message can hold a turn marker or a stop token.
    """

    text: str
    supervised: bool
    control: bool = False


class PromptTemplate(_Configurable, ABC):
    """How a dialogue becomes text."""

    stop: tuple[str, ...] = ()
    """Strings that end an assistant turn. Those that are exactly one token of the tokenizer stop generation."""

    isolates_messages: ClassVar[bool] = True
    """No message can write a turn marker or a special token. False for what cannot promise that, because it hands whole
    dialogues to code that does not tell markers from text: it is then not tested for it, which is said."""

    @abstractmethod
    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The whole dialogue; every assistant turn supervised, with what ends it, and nothing else."""

    def turn_ends(self, messages: Sequence[Message]) -> list[int]:
        """After how many messages a dialogue is rendered, so that each turn is learned as generation writes it.

        That is once, after all, unless a later turn changes how an earlier one of the assistant is written: rising
        numbers. A turn that several renderings supervise is learned in the longest.
        """
        return [len(messages)]

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "PromptTemplate":
        """The template for this tokenizer; itself, unless the rendering depends on the tokenizer."""
        return self

    def dated(self, moment: "datetime") -> "PromptTemplate":
        """The template that takes this for the time of day; itself, unless the rendering depends on the date.

        A run asks for it with the moment of its first start, so that it reads the same rows when it is resumed.
        """
        return self

    def prefilled(self, prompt: str) -> str:
        """What a rendered prompt ends with in the assistant's name, which the response goes on from; here nothing.

        Args:
            prompt: the text of a generation prompt.
        """
        return ""

    def generation_prompt(self, messages: Sequence[Message]) -> list[Segment]:
        """What the policy continues: the rendering with an empty assistant turn at its end, cut where that turn begins.

        Raises:
            TemplateError: the template supervises nothing in an assistant turn.
        """
        before = sum(segment.supervised for segment in self.render(messages)) if messages else 0
        segments = self.render([*messages, Message("assistant", "")])
        seen = 0
        for index, segment in enumerate(segments):
            if segment.supervised:
                if seen == before:
                    return segments[:index]
                seen += 1
        raise TemplateError(
            f"template {type(self).__name__} must supervise an assistant turn, got a rendering without one. "
            "Mark what the assistant writes, and what ends its turn, as supervised."
        )


class RewardFunction(_Configurable, ABC):
    """A score for a response, computed by code."""

    example_columns: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """The fields of a row that `example` makes it read, each with a value: `plugins check` hands them over."""

    @abstractmethod
    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]
    ) -> Scores | Awaitable[Scores]:
        """One finite score per response, or per response one score for each of its `response_tokens`.

        None in the place of a score says that the function does not apply to that response: it is left out of the
        weighted sum. `async def __call__` is awaited beside the other reward functions of the run that are coroutines.
        Must not depend on the neighbours in the batch nor change its inputs.

        Args:
            prompts: as rendered for the policy.
            responses: decoded, without special and stop tokens.
            **columns: one entry per response. Reserved names: `messages` (the dialogue so far), `response_tokens`
                (strings, the stop token included; a part of a character as its bytes, `<0xE4>`), `stopped` (bool) and
                `prefilled` (what the prompt already wrote in the assistant's name, such as `<think>`, else empty);
                every other name is a field of the row.
        """


class RankingConverter(_Configurable, ABC):
    """How places become scalar rewards."""

    @abstractmethod
    def __call__(self, ranks: "NDArray[np.floating[Any]]") -> "NDArray[np.floating[Any]]":
        """Rewards of one prompt's candidates: order-preserving and permutation-equivariant.

        Args:
            ranks: `(num_annotators, num_candidates)`, 0 = best, ties equal, nan = unranked.

        Returns:
            `(num_candidates,)`, higher = better, nan where no annotator ranked.
        """


class ModelSource(_Configurable, ABC):
    """Where a causal language model and its tokenizer come from."""

    offline: ClassVar[bool] = False
    """It promises to need no network; its contract test holds it to that."""

    reproducible: ClassVar[bool] = False
    """It promises the same weights in every process: checkpoints of adapters on it leave them out."""

    @abstractmethod
    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model, in fp32 unless its files say otherwise, on the CPU, and its tokenizer."""
