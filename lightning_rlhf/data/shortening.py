"""Rows that are too long, made to fit as `truncation` says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from lightning_rlhf.data.tokenization import Encoded, PromptFormatter
from lightning_rlhf.data.truncation import DocumentTruncation, last_turn_cut, token_windows, whole_turns
from lightning_rlhf.records import Message

__all__ = ["Shortener"]

Dialogue = Sequence[Message]


@dataclass(frozen=True)
class Shortener:
    """Makes rows fit.

    Args:
        formatter: template and tokenizer.
        max_length: tokens of a row at most.
        truncation: what goes of a row that is longer.
    """

    formatter: PromptFormatter
    max_length: int
    truncation: DocumentTruncation

    def dialogue(self, messages: Dialogue, encoded: Encoded) -> list[Encoded]:
        """The rows that a dialogue's row becomes: itself where it fits, none where nothing can be learned of it.

        Args:
            messages: what the row holds.
            encoded: its ids, and what is learned of them.
        """
        ids, supervised = encoded
        if len(ids) <= self.max_length:
            return [encoded]
        match self.truncation:
            case "turns":
                return self._fewer_turns(messages, encoded)
            case "left":
                places = self._end(ids, self.max_length)
                first = next(len(ids) - n for n in range(len(places), 0, -1) if places[-n] == len(ids) - n)
                # a turn without its beginning is not learned
                half = next((end for start, end in _runs(supervised) if start < first < end), first)
                learned = [supervised[place] and not first <= place < half for place in places]
                return [Encoded([ids[place] for place in places], learned)]
            case "right":
                return [Encoded(ids[: self.max_length], supervised[: self.max_length])]
            case "window":
                windows = token_windows(supervised, self.max_length)
                return [Encoded(ids[start:end], supervised[start:end]) for start, end in windows]
        return []

    def document(self, ids: list[int]) -> list[list[int]]:
        """The rows of a document: it has no turns, so that they become pieces unless its end or beginning is to go.

        A piece begins with the token that ended the one before it, so that every token but the first is predicted.
        """
        size = self.max_length
        if self.truncation in ("turns", "window"):
            return [ids[start : start + size] for start in range(0, len(ids) - 1, size - 1)]
        if len(ids) <= size:
            return [ids]
        if self.truncation == "drop":
            return []
        return [ids[:size] if self.truncation == "right" else [ids[place] for place in self._end(ids, size)]]

    def prompt(self, messages: Dialogue, ids: list[int]) -> tuple[Dialogue, list[int]] | None:
        """A prompt and its ids, as far as they fit; None where it is left out."""
        if len(ids) <= self.max_length:
            return messages, ids
        kept: Dialogue | None = None
        if self.truncation == "left":
            return messages, [ids[place] for place in self._end(ids, self.max_length)]
        if self.truncation == "turns":
            kept = whole_turns(messages, self._prompt_length, self.max_length)
        elif self.truncation == "right":
            kept = last_turn_cut(messages, self._prompt_length, self.max_length)
        return None if kept is None else (kept, self.formatter.encode_prompt(kept))

    def ranking(
        self, messages: Dialogue, prompt: list[int], texts: Sequence[str], ids: Sequence[list[int]], *, keep_all: bool
    ) -> tuple[list[int], list[list[int]]] | None:
        """Ids of a prompt, the same for all responses, and of the responses: none of one that is left out.

        Args:
            messages: the prompt.
            prompt: its ids.
            texts: the responses.
            ids: their ids, none of one that is left out in any case.
            keep_all: no response is left out for its length: what does not fit is cut at its end.

        Returns:
            None where fewer than two responses fit.
        """
        allowed = [place for place, response in enumerate(ids) if response]
        while len(allowed) > (0 if keep_all else 1):
            longest = max(len(ids[place]) for place in allowed)
            kept = self._ranking_prompt(messages, prompt, longest)
            if kept is not None:
                dialogue, fitting = kept
                room = self.max_length - len(fitting)
                after = ids if dialogue is messages else [self.formatter.encode_response(dialogue, t) for t in texts]
                return fitting, [response[:room] if place in allowed else [] for place, response in enumerate(after)]
            if keep_all or self.truncation == "drop":
                break
            allowed = [place for place in allowed if len(ids[place]) < longest]
        if not keep_all:
            return None
        room = min(len(prompt), max(self.max_length - max(map(len, ids)), self.max_length // 2))
        return [prompt[place] for place in self._end(prompt, room)], [part[: self.max_length - room] for part in ids]

    def _ranking_prompt(self, messages: Dialogue, prompt: list[int], longest: int) -> tuple[Dialogue, list[int]] | None:
        """The prompt, as it leaves room for the longest response; None where there is none."""
        room = self.max_length - longest
        if self.truncation == "right":  # the prompt takes what responses leave, and half of the row in any case
            room = max(room, self.max_length // 2)
        if len(prompt) <= room:
            return messages, prompt
        if self.truncation in ("left", "right") and room > 0:
            return messages, [prompt[place] for place in self._end(prompt, room)]
        if self.truncation != "turns":
            return None
        kept = whole_turns(messages, self._prompt_length, room, self.max_length // 4)
        return None if kept is None else (kept, self.formatter.encode_prompt(kept))

    def _fewer_turns(self, messages: Dialogue, encoded: Encoded) -> list[Encoded]:
        """The dialogue without its oldest turns; where its last answer does not fit, without that one."""
        ends = [place + 1 for place, turn in enumerate(messages) if turn.role == "assistant"][::-1]
        whole = self.formatter.encode(messages[: ends[0]])
        learned = [any(encoded.supervised[start:end]) for start, end in _runs(whole.supervised)]
        if self.formatter.template.turn_ends(messages) != [len(messages)]:
            ends = ends[:1]  # the turns before have rows of their own
        for place, end in enumerate(ends):
            kept = whole_turns(messages[:end], self._length, self.max_length, self.max_length // 4)
            if kept is not None:
                row = self.formatter.encode(kept)
                return [Encoded(row.ids, _as_before(row.supervised, learned[: len(learned) - place]))]
        return []

    def _length(self, messages: Dialogue) -> int:
        return len(self.formatter.encode(messages).ids)

    def _prompt_length(self, messages: Dialogue) -> int:
        return len(self.formatter.encode_prompt(messages))

    def _end(self, ids: Sequence[int], size: int) -> list[int]:
        """Places of the last ids, and of those that begin any text."""
        first = self.formatter.beginning(ids) if len(ids) > size else 0
        first = first if first < size else 0
        return [*range(first), *range(max(first, len(ids) - size + first), len(ids))]


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Where neighbours are true."""
    place = 0
    for flag, run in groupby(flags):
        length = len(list(run))
        if flag:
            yield place, place + length
        place += length


def _as_before(supervised: Sequence[bool], learned: Sequence[bool]) -> list[bool]:
    """What is learned of a row that ends with the same turns as another, of which some turns are learned."""
    flags = [False] * len(supervised)
    for flag, (start, end) in zip(reversed(learned), reversed(list(_runs(supervised))), strict=False):
        flags[start:end] = [flag] * (end - start)
    return flags
