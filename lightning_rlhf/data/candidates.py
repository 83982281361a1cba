"""Responses that are scored and not learned from: of rankings, and of rows with a prompt and one response."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from lightning_rlhf.data.row_base import Row, Tally
from lightning_rlhf.data.rows import RankingRows
from lightning_rlhf.data.shortening import Shortener
from lightning_rlhf.records import Demonstration, Ranking, Record

__all__ = ["CandidateRows"]


@dataclass(frozen=True)
class CandidateRows(RankingRows):
    """All candidates of rankings, ranked or not, and the last response of demonstrations, which has no rank."""

    keep_all: bool = True

    kinds: ClassVar[str] = "rankings or demonstrations"
    reads: ClassVar[tuple[type[Record], ...]] = (Ranking, Demonstration)

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """One row."""
        if isinstance(record, Demonstration):
            yield self._response_row(record, tally)
        else:
            yield from super().rows(record, tally)

    def _response_row(self, record: Demonstration, tally: Tally) -> Row:
        last = max(place for place, message in enumerate(record.messages) if message.role == "assistant")
        messages, response = record.messages[:last], record.messages[last].content
        prompt, ids = self.formatter.encode_prompt(messages), self.formatter.encode_response(messages, response)
        shortener = Shortener(self.formatter, self.max_length, self.truncation)
        fitting = shortener.ranking(messages, prompt, [response], [ids], keep_all=True)
        assert fitting is not None  # nothing is left out
        kept_prompt, (kept,) = fitting
        tally.count(len(prompt) + len(ids), len(kept_prompt) + len(kept), len(ids), len(kept))
        return {
            "prompt_ids": kept_prompt,
            "responses": [kept],
            "whole_lengths": [len(ids)],
            "ranks": [-1],
            "rewards": [0.0],
            "targets": [0.0],
            "candidates": [True],
            "num_prompts": 0,
        }
