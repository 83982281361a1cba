"""A template and a tokenizer together: dialogues to ids and back."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby, takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lightning_rlhf.checkpoints.fingerprints import text_fingerprint
from lightning_rlhf.data.encoding import PieceEncoder
from lightning_rlhf.data.template_choice import PROBES, look_of, record_of
from lightning_rlhf.data.token_texts import TokenText, TokenTexts
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.models import RecordedTemplate
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.records import Message

__all__ = ["Encoded", "PromptFormatter"]


class Encoded(NamedTuple):
    """The ids of a dialogue and which of them the assistant wrote."""

    ids: list[int]
    supervised: list[bool]

    @property
    def response_start(self) -> int:
        """Where the last supervised run begins: the length of what the last response continues; the end without one."""
        end = len(self.supervised)
        while end and not self.supervised[end - 1]:
            end -= 1
        if not end:
            return len(self.supervised)
        while end and self.supervised[end - 1]:
            end -= 1
        return end


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring segments that are supervised alike: a turn of the assistant, or what stands between two."""

    supervised: bool
    pieces: tuple[tuple[str, bool], ...]
    """Text and whether it is control, neighbours of one kind joined."""


class PromptFormatter:
    """Turns dialogues into ids and responses into text.

    Args:
        template: how a dialogue becomes text; bound to the tokenizer here.
        tokenizer: the model's tokenizer.
        moment: for a template that writes a date; None: the present one.

    Raises:
        TemplateError: neither the tokenizer's EOS nor a stop string of the template is a single token.
    """

    def __init__(
        self, template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, moment: datetime | None = None
    ) -> None:
        self._given = template
        self.moment = moment
        self.template = (template if moment is None else template.dated(moment)).bind(tokenizer)
        self.tokenizer = tokenizer
        self._encoder = PieceEncoder(tokenizer)
        self._prefix_ids = self._encoder.prefix_ids
        self._token_texts = TokenTexts(self._encoder)
        self.stop_ids: tuple[int, ...] = self._find_stop_ids()
        """Tokens that end a response: the tokenizer's EOS first, if it has one."""
        self._protect_markers()

    @cached_property
    def bos_marks_turns(self) -> bool:
        """Whether the template begins every turn with the BOS token (`<|im_start|>` of some tokenizers)."""
        bos = self.tokenizer.bos_token_id
        question, answer = Message("user", "q"), Message("assistant", "a")
        try:
            one, three = self.encode_prompt([question]), self.encode_prompt([question, answer, question])
        except TemplateError:
            return False
        return bos is not None and bos not in self.stop_ids and three.count(bos) - one.count(bos) >= 2

    def beginning(self, ids: Sequence[int]) -> int:
        """How many tokens at the start of a row would begin any text: they stay where the text after them is cut."""
        prefix, bos = self._prefix_ids, self.tokenizer.bos_token_id
        if prefix and list(ids[: len(prefix)]) == prefix:
            return len(prefix)
        return int(bos is not None and list(ids[:1]) == [bos] and not self.bos_marks_turns)

    @cached_property
    def record(self) -> RecordedTemplate | None:
        """What `model/` records of the template; None if it cannot be built anew from what it shows."""
        return record_of(self._given)

    @cached_property
    def fingerprint(self) -> str:
        """Of the template's stop strings and of how it renders a few dialogues."""
        return text_fingerprint(*map(repr, look_of(self.template)))

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """The ids of a dialogue in one rendering, its assistant turns supervised with the stop token that ends them.

        A turn without a stop token gets one. What the template writes after a last assistant turn is left out: nothing
        learns from it, and so a prompt's ids and its response's are the ids of the dialogue.
        """
        blocks = _blocks(self.template.render(messages))
        answered = messages[-1].role == "assistant"
        if answered and len(blocks) > 1 and not blocks[-1].supervised:
            blocks.pop()
        ids, supervised = [], []
        first = True
        for place, block in enumerate(blocks):
            block_ids, learned = self._encode_block(block, first=first)
            if answered and block.supervised and place == len(blocks) - 1:
                block_ids = block_ids[:learned]
            ids += block_ids
            supervised += [block.supervised] * learned + [False] * (len(block_ids) - learned)
            first = first and not any(text for text, _ in block.pieces)
        prefix = self._missing_prefix(ids)
        return Encoded([*prefix, *ids], [False] * len(prefix) + supervised)

    def encode_turns(self, messages: Sequence[Message]) -> list[Encoded]:
        """The ids of a dialogue in as many rows as it takes to learn each assistant turn once, as generation writes it.

        That is one, `encode`, unless the template writes a turn otherwise once another follows it.
        """
        rows: list[Encoded] = []
        for end in reversed(self.template.turn_ends(messages)):
            row = self.encode(messages[:end])
            rows.append(Encoded(row.ids, _unlearned(row, rows)))
        return self._without_weight_0(messages, rows[::-1])

    def encode_prompt(self, messages: Sequence[Message], *, suffix_only: bool = False) -> list[int]:
        """The ids of what the policy continues.

        Args:
            messages: the turns so far.
            suffix_only: the ids go on from others: nothing that the tokenizer begins a text with, and no dummy prefix.
        """
        ids = self._encode_segments(self.template.generation_prompt(messages), first=not suffix_only)
        return ids if suffix_only else [*self._missing_prefix(ids), *ids]

    def render_prompt(self, messages: Sequence[Message]) -> str:
        """The text of what the policy continues."""
        return "".join(segment.text for segment in self.template.generation_prompt(messages))

    def encode_response(self, messages: Sequence[Message], response: str) -> list[int]:
        """The response's own ids, the stop token at their end: `encode_prompt` and these are `encode` of the whole.

        Args:
            messages: the turns before the response.
            response: its text.
        """
        blocks = _blocks(self.template.render([*messages, Message("assistant", response)]))
        place = max((index for index, block in enumerate(blocks) if block.supervised), default=None)
        if place is None:
            raise TemplateError(
                f"template {type(self.template).__name__} must supervise an assistant turn, got a rendering without "
                "one. Mark what the assistant writes as supervised."
            )
        first = not any(text for block in blocks[:place] for text, _ in block.pieces)
        ids, learned = self._encode_block(blocks[place], first=first)
        return ids[:learned]

    def encode_text(self, text: str) -> list[int]:
        """The ids of a document: what the tokenizer begins a text with, no special token out of the text, EOS."""
        ids = self._encoder.encode(text, control=False, first=True)
        eos = self.tokenizer.eos_token_id
        return [*self._missing_prefix(ids), *ids, *([] if eos is None else [eos])]

    def prefilled(self, prompt: str) -> str:
        """What the text of a prompt ends with in the assistant's name."""
        return self.template.prefilled(prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a prompt or a document as it was rendered: all but what begins any text, EOS and padding."""
        if list(ids[: len(self._prefix_ids)]) == self._prefix_ids:
            ids = ids[len(self._prefix_ids) :]
        return self._encoder.decode_whole([index for index in ids if index not in self._unwritten_ids])

    def decode_response(self, ids: Sequence[int]) -> str:
        """The text of a response up to its first stop token, without BOS and padding.

        Other special tokens are part of what the model said: `<think>2+2</think>4` stays what it is. A stop string that
        is several tokens of this tokenizer, and so no stop token, is cut off the end too.
        """
        said = list(takewhile(lambda index: index not in self.stop_ids, ids))
        text = self._encoder.decode([index for index in said if index not in self._unwritten_ids])
        ending = next((stop for stop in self.template.stop if stop and text.endswith(stop)), "")
        return text.removesuffix(ending)

    def response_tokens(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, special and stop tokens included, the same wherever it stands.

        A token that holds a part of a character only is written as its bytes: `<0xE4>`.
        """
        return [self._token_texts.of(index) for index in ids]

    def token_texts(self, ids: Sequence[int], before: int | None = None) -> list[TokenText]:
        """The text of tokens in order, special tokens included: neighbours that make a character together are one.

        Args:
            ids: the tokens.
            before: the token in front of them, if there is one.
        """
        return self._token_texts.joined(ids, before)

    def shown(self, ids: Sequence[int]) -> str:
        """The text of tokens for a person to read, special tokens included."""
        return "".join(part.text for part in self.token_texts(ids))

    @cached_property
    def _unwritten_ids(self) -> frozenset[int | None]:
        tokenizer = self.tokenizer
        return frozenset((tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id))

    def _find_stop_ids(self) -> tuple[int, ...]:
        eos = self.tokenizer.eos_token_id
        found = [] if eos is None else [eos]
        for text in self.template.stop:
            ids = self._encoder.encode(text, control=True, first=False)
            if len(ids) == 1:
                found.append(ids[0])
                self._encoder.protect(text, ids[0])
        if not found:
            raise TemplateError(
                f"template {type(self.template).__name__} and tokenizer {self.tokenizer.name_or_path!r} must have a "
                f"stop token, got no EOS and stop strings {list(self.template.stop)} of which none is a single token. "
                "Give the tokenizer an EOS token, or use a template whose stop string it knows."
            )
        return tuple(dict.fromkeys(found))

    def _protect_markers(self) -> None:
        for probe in PROBES:
            with suppress(TemplateError):  # such as a template without a system turn
                for block in _blocks(self.template.render(probe)):
                    for text, control in block.pieces:
                        if control:
                            self._encoder.protect_markers(text)

    def _without_weight_0(self, messages: Sequence[Message], rows: list[Encoded]) -> list[Encoded]:
        """Rows of a dialogue in which those turns are learned that are to be."""
        turns = [place for place, message in enumerate(messages) if message.role == "assistant"]
        learned = [place for place in turns if messages[place].learned]
        if len(learned) == len(turns):
            return rows
        kept = [[False] * len(row.ids) for row in rows]
        for place in learned:
            prompt = self.encode_prompt(messages[:place])
            whole = prompt + self.encode_response(messages[:place], messages[place].content)
            holding = [number for number, row in enumerate(rows) if row.ids[: len(whole)] == whole]
            if not holding:
                raise TemplateError(
                    f"template {type(self.template).__name__} must write a turn of the history as generation does, for "
                    f"turns with the weight 0 to be told from it, got another text for turn {place + 1}. Give all "
                    "turns the weight 1, or use another template."
                )
            for number in holding:
                kept[number][len(prompt) : len(whole)] = [True] * (len(whole) - len(prompt))
        return [
            Encoded(row.ids, [flag and keep for flag, keep in zip(row.supervised, keeps, strict=True)])
            for row, keeps in zip(rows, kept, strict=True)
        ]

    def _missing_prefix(self, ids: Sequence[int]) -> list[int]:
        """What the tokenizer begins a text with, less the part of it that the template wrote."""
        prefix = self._prefix_ids
        written = next((n for n in range(len(prefix), 0, -1) if prefix[-n:] == list(ids[:n])), 0)
        return prefix[: len(prefix) - written]

    def _encode_segments(self, segments: Sequence[Segment], *, first: bool) -> list[int]:
        ids: list[int] = []
        for block in _blocks(segments):
            ids += self._encode_block(block, first=first)[0]
            first = first and not any(text for text, _ in block.pieces)
        return ids

    def _encode_block(self, block: _Block, *, first: bool) -> tuple[list[int], int]:
        """The ids of a block, and how many of them, from the start, are learned if it is supervised."""
        ids: list[int] = []
        for place, (text, control) in enumerate(block.pieces):
            ids += self._encoder.encode(text, control=control, first=first and place == 0)
        if not block.supervised:
            return ids, 0
        stops = [place for place, index in enumerate(ids) if index in self.stop_ids]
        if stops and self._is_blank(ids[stops[-1] + 1 :]):
            # chat templates end a turn with a stop token, and a line break or another stop token: the policy never
            # writes what follows its first
            end = stops.pop()
            while stops and self._is_blank(ids[stops[-1] + 1 : end]):
                end = stops.pop()
            return ids, end + 1
        ids.append(self.stop_ids[0])
        return ids, len(ids)

    def _is_blank(self, ids: Sequence[int]) -> bool:
        return not ids or not self._encoder.decode(ids).strip()


def _unlearned(row: Encoded, rows: Sequence[Encoded]) -> list[bool]:
    """What a row supervises that no other one does that begins with the same tokens."""
    supervised = list(row.supervised)
    for other in rows:
        shared = next(
            (place for place, (one, two) in enumerate(zip(row.ids, other.ids, strict=False)) if one != two),
            min(len(row.ids), len(other.ids)),
        )
        for place in range(shared):
            supervised[place] &= not other.supervised[place]
    return supervised


def _blocks(segments: Sequence[Segment]) -> list[_Block]:
    """Segments in runs that are supervised alike. Empty text joins its neighbours, but an empty turn stays a turn."""
    kept = [segment for segment in segments if segment.text or segment.supervised]
    blocks = []
    for supervised, run in groupby(kept, key=lambda segment: segment.supervised):
        kinds = groupby((segment for segment in run if segment.text), key=lambda segment: segment.control)
        pieces = tuple(("".join(segment.text for segment in members), control) for control, members in kinds)
        blocks.append(_Block(supervised, pieces))
    return blocks
