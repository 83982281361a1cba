"""Records to rows of ids: what is stored, one schema per data module.

Each tokenization is called with a record and yields its rows; it raises `RecordError` for a bad row, and counts in
`Tally` what it cut or left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from lightning_rlhf.data.tokenization import Encoded, PromptFormatter
from lightning_rlhf.data.truncation import end_of_prompt, prompt_room
from lightning_rlhf.errors import ConfigError, DataError, RecordError
from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Record, Text

__all__ = [
    "DemonstrationRows",
    "PromptRows",
    "RankingRows",
    "Row",
    "Supervise",
    "Tally",
    "Tokenization",
    "greatest_id",
]

Row = dict[str, Any]
Supervise = Literal["all", "last"]

_READERS = {
    Text: "DemonstrationData (or the ptx_source of PromptData)",
    Demonstration: "DemonstrationData",
    Ranking: "RankingData",
    Prompt: "PromptData",
}
_IDS = "int32[]"


@dataclass
class Tally:
    """What became of a split's rows."""

    num_rows: int = 0
    """Rows stored."""
    num_skipped: int = 0
    """Bad rows left out (`on_bad_row: skip`)."""
    first_skipped: str = ""
    """What was wrong with the first of them, and where it stands."""
    num_truncated: int = 0
    """Records that were cut to the maximal length."""
    num_unordered: int = 0
    """Rankings without an ordered pair: all candidates tie, or fewer than two are ranked."""
    longest: int = 0
    """Tokens of the longest row: what the model must have positions for."""
    greatest_id: int = 0
    """Of all tokens: what the model must have embeddings for."""


class Tokenization:
    """How records of a kind become rows."""

    features: ClassVar[Mapping[str, str]]
    """The type of each column as Arrow names it, `[]` for a list of them."""
    count_names: ClassVar[tuple[str, ...]] = ()
    """Integer columns that are summed over an accumulation window and handed out with each batch."""

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """The rows of one record.

        Raises:
            RecordError: it is a bad row.
            DataError: another data module reads this kind of record.
        """
        raise self.misfit(record)

    def length(self, row: Row) -> int:
        """How many positions of a model a row takes."""
        return len(row["prompt_ids"]) + max((len(response) for response in row.get("responses", ())), default=0)

    def misfit(self, record: object) -> DataError:
        """The error for a kind of record that this does not read."""
        found = type(record).__name__
        reader = next((reader for kind, reader in _READERS.items() if isinstance(record, kind)), None)
        hint = f"{reader} reads those." if reader else "A source yields records of one kind."
        return DataError(f"{self.subject} must read {self.kinds}, got a record of the class {found}. {hint}")

    subject: ClassVar[str]
    kinds: ClassVar[str]


@dataclass(frozen=True)
class DemonstrationRows(Tokenization):
    """Dialogues and documents to `input_ids`, what is learned of them, and lengths of the documents in a row.

    Args:
        formatter: template and tokenizer.
        max_length: tokens at most.
        supervise: all assistant turns, or the last.
    """

    formatter: PromptFormatter
    max_length: int
    supervise: Supervise = "all"

    subject: ClassVar[str] = "DemonstrationData"
    kinds: ClassVar[str] = "demonstrations or texts"
    features: ClassVar[Mapping[str, str]] = {
        "input_ids": _IDS,
        "supervised": "bool[]",
        "lengths": _IDS,
        "num_targets": "int64",
        "num_tokens": "int64",
    }
    count_names: ClassVar[tuple[str, ...]] = ("num_targets", "num_tokens")

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """One row of a dialogue; of a document as many as it takes."""
        if isinstance(record, Demonstration):
            for encoded in self._encoded(record):
                yield self._dialogue_row(encoded, tally)
        elif isinstance(record, Text):
            yield from self._document_rows(record)
        else:
            raise self.misfit(record)

    def length(self, row: Row) -> int:
        """Of its longest document: positions restart in each."""
        return int(max(row["lengths"]))

    def _encoded(self, record: Demonstration) -> list[Encoded]:
        """The dialogue in as many rows as it takes to learn its turns."""
        rows = self.formatter.encode_turns(record.messages)
        if self.supervise == "all":
            return rows
        ids, supervised = rows[-1]
        start = rows[-1].response_start
        return [Encoded(ids, [learned and place >= start for place, learned in enumerate(supervised)])]

    def _dialogue_row(self, encoded: Encoded, tally: Tally) -> Row:
        start = encoded.response_start
        ids, supervised = encoded.ids, encoded.supervised
        if len(ids) > self.max_length:
            tally.num_truncated += 1
            room = prompt_room(start, len(ids) - start, self.max_length)
            places = end_of_prompt(ids[:start], room, self.formatter.tokenizer.bos_token_id)
            places += range(start, start + self.max_length - room)
            ids, supervised = [ids[place] for place in places], [supervised[place] for place in places]
        supervised = [False, *supervised[1:]]
        if not any(supervised):
            raise RecordError(
                "a demonstration must keep at least one supervised token that something stands before, got none within "
                f"max_length {self.max_length}. Raise max_length, or mend the row or the template."
            )
        return _row(ids, supervised)

    def _document_rows(self, record: Text) -> Iterator[Row]:
        ids = self.formatter.encode_text(record.text)
        if len(ids) < 2:
            raise RecordError("a text must have at least two tokens, got one: nothing is left to predict.")
        # a piece starts with the token that ended the one before it, so that every token but the first is predicted
        for start in range(0, len(ids) - 1, self.max_length - 1):
            piece = ids[start : start + self.max_length]
            yield _row(piece, [False] + [True] * (len(piece) - 1))


@dataclass(frozen=True)
class RankingRows(Tokenization):
    """Rankings to the ids of a prompt and of its responses, dense ranks, rewards and targets.

    Args:
        formatter: template and tokenizer.
        max_length: tokens of prompt and response at most.
        converter: ranks to rewards.
        keep_all: also rankings without an ordered pair and candidates without a rank: to be scored, not learned from.
    """

    formatter: PromptFormatter
    max_length: int
    converter: RankingConverter
    keep_all: bool = False

    subject: ClassVar[str] = "RankingData"
    kinds: ClassVar[str] = "rankings"
    features: ClassVar[Mapping[str, str]] = {
        "prompt_ids": _IDS,
        "responses": "int32[][]",
        "whole_lengths": "int64[]",
        "ranks": "int64[]",
        "rewards": "float64[]",
        "targets": "float64[]",
        "candidates": "bool[]",
        "num_prompts": "int64",
    }
    count_names: ClassVar[tuple[str, ...]] = ("num_prompts",)

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """One row, or none where there is nothing to compare."""
        if not isinstance(record, Ranking):
            raise self.misfit(record)
        converted = self._converted(record)
        ranked = np.isfinite(converted)
        ordered = len(np.unique(np.round(converted[ranked], 9))) > 1
        if not ordered:
            tally.num_unordered += 1
            if not self.keep_all:
                return
        ranks = np.zeros(len(converted), dtype=np.int64)
        # sums over annotators in another order differ in their last digits: those are ties
        ranks[ranked] = np.unique(-np.round(converted[ranked], 9), return_inverse=True)[1]
        targets = self._targets(record, converted, ranked)
        candidates = ranked | self.keep_all
        prompt, responses, whole_lengths = self._ids(record, candidates.tolist(), tally)
        yield {
            "prompt_ids": prompt,
            "responses": responses,
            "whole_lengths": whole_lengths,
            "ranks": ranks.tolist(),
            "rewards": np.where(ranked, converted, 0.0).tolist(),
            "targets": np.where(ranked, targets, 0.0).tolist(),
            "candidates": candidates.tolist(),
            "num_prompts": int(ordered),
        }

    def _converted(self, record: Ranking) -> "np.ndarray[Any, np.dtype[np.float64]]":
        ranks = np.array([[np.nan if rank is None else rank for rank in row] for row in record.ranks], dtype=np.float64)
        if np.isnan(ranks).all():
            return np.full(ranks.shape[1], np.nan)
        rewards = np.asarray(self.converter(ranks.copy()), dtype=np.float64)
        ranked = ~np.isnan(ranks).all(axis=0)
        if rewards.shape != ranked.shape or not np.array_equal(np.isfinite(rewards), ranked):
            raise ConfigError(
                f"ranking converter {type(self.converter).__name__} must return one finite reward per ranked "
                f"candidate and nan for the others, got {rewards.tolist()} for the ranks {ranks.tolist()}. "
                "Mend the converter, or name another."
            )
        return rewards

    @staticmethod
    def _targets(record: Ranking, converted: Any, ranked: Any) -> Any:
        if record.scores is None:
            return converted
        scores = np.array([np.nan if score is None else score for score in record.scores], dtype=np.float64)
        if np.isnan(scores[ranked]).any():
            raise RecordError(
                f"scores must be there for every ranked response or for none, got {list(record.scores)}. Fill them in."
            )
        return scores

    def _ids(
        self, record: Ranking, candidates: Sequence[bool], tally: Tally
    ) -> tuple[list[int], list[list[int]], list[int]]:
        """Ids of the prompt and of each candidate, and the candidates' lengths before they were cut.

        The prompt is cut alike for all, as its longest candidate needs.
        """
        prompt = self.formatter.encode_prompt(record.prompt)
        responses = [
            self.formatter.encode_response(record.prompt, response) if candidate else []
            for response, candidate in zip(record.responses, candidates, strict=True)
        ]
        whole_lengths = list(map(len, responses))
        longest = max(whole_lengths)
        if len(prompt) + longest <= self.max_length:
            return prompt, responses, whole_lengths
        tally.num_truncated += 1
        room = prompt_room(len(prompt), longest, self.max_length)
        places = end_of_prompt(prompt, room, self.formatter.tokenizer.bos_token_id)
        cut = [response[: self.max_length - room] for response in responses]
        return [prompt[place] for place in places], cut, whole_lengths


@dataclass(frozen=True)
class PromptRows(Tokenization):
    """Prompts to ids, text, and the row's other fields as JSON.

    A demonstration is the prompt of its last assistant turn, with the column `response`; a ranking is its prompt.

    Args:
        formatter: template and tokenizer.
        max_prompt_length: tokens at most; the end is kept.
    """

    formatter: PromptFormatter
    max_prompt_length: int

    subject: ClassVar[str] = "prompts"
    kinds: ClassVar[str] = "prompts, demonstrations or rankings"
    features: ClassVar[Mapping[str, str]] = {
        "prompt_ids": _IDS,
        "text": "string",
        "messages": "string",
        "columns": "string",
    }

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """One row."""
        messages, columns = self._parts(record)
        ids = self.formatter.encode_prompt(messages)
        if not ids:
            raise RecordError("a prompt must have at least one token, got none. Give it text, or use another template.")
        if len(ids) > self.max_prompt_length:
            tally.num_truncated += 1
            places = end_of_prompt(ids, self.max_prompt_length, self.formatter.tokenizer.bos_token_id)
            ids = [ids[place] for place in places]
        try:
            stored = json.dumps(columns, ensure_ascii=False)
            stored.encode()  # half a surrogate pair could not be written anywhere
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(
                f"the columns of a prompt must hold JSON values (text, numbers, lists, objects), got {error}. Convert "
                "the column, or leave it out of the file."
            ) from None
        yield {
            "prompt_ids": ids,
            "text": self.formatter.render_prompt(messages),
            "messages": json.dumps([[message.role, message.content] for message in messages]),
            "columns": stored,
        }

    def _parts(self, record: Record) -> tuple[tuple[Message, ...], dict[str, Any]]:
        if isinstance(record, Prompt):
            return record.prompt, dict(record.columns)
        if isinstance(record, Ranking):
            return record.prompt, {}
        if isinstance(record, Demonstration):
            last = max(place for place, message in enumerate(record.messages) if message.role == "assistant")
            return record.messages[:last], {"response": record.messages[last].content}
        raise self.misfit(record)


def _row(ids: list[int], supervised: list[bool]) -> Row:
    return {
        "input_ids": ids,
        "supervised": supervised,
        "lengths": [len(ids)],
        "num_targets": sum(supervised),
        "num_tokens": len(ids) - 1,
    }


def greatest_id(row: Row) -> int:
    """The greatest token id of a row of any kind."""
    responses = row.get("responses", ())
    parts = [row.get("input_ids", ()), row.get("prompt_ids", ()), *responses]
    return max((max(ids) for ids in parts if len(ids)), default=0)
