"""Records to rows of ids: what is stored, one schema per data module.

Each tokenization is called with a record and yields its rows; it raises `RecordError` for a bad row, and counts in
`Tally` what it cut or left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lightning_rlhf.data.json_columns import json_columns
from lightning_rlhf.data.row_base import Row, Supervise, Tally, Tokenization
from lightning_rlhf.data.shortening import Shortener
from lightning_rlhf.data.tokenization import Encoded, PromptFormatter
from lightning_rlhf.data.truncation import DocumentTruncation, Truncation
from lightning_rlhf.errors import ConfigError, RecordError
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

_IDS = "int32[]"


@dataclass(frozen=True)
class DemonstrationRows(Tokenization):
    """Dialogues and documents to `input_ids`, what is learned of them, and lengths of the documents in a row.

    Args:
        formatter: template and tokenizer.
        max_length: tokens at most.
        supervise: all assistant turns, or the last.
        truncation: what goes of a row that is longer.
    """

    formatter: PromptFormatter
    max_length: int
    supervise: Supervise = "all"
    truncation: DocumentTruncation = "turns"

    subject: ClassVar[str] = "DemonstrationData"
    kinds: ClassVar[str] = "demonstrations or texts"
    reads: ClassVar[tuple[type[Record], ...]] = (Demonstration, Text)
    features: ClassVar[Mapping[str, str]] = {
        "input_ids": _IDS,
        "supervised": "bool[]",
        "lengths": _IDS,
        "num_targets": "int64",
        "num_tokens": "int64",
    }
    count_names: ClassVar[tuple[str, ...]] = ("num_targets", "num_tokens")

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """One row of a dialogue or as many as its template takes; of a document as many as it takes."""
        if isinstance(record, Demonstration):
            yield from self._dialogue_rows(record.messages, tally)
        elif isinstance(record, Text):
            yield from self._document_rows(record, tally)
        else:
            raise self.misfit(record)

    def length(self, row: Row) -> int:
        """Of its longest document: positions restart in each."""
        return int(max(row["lengths"]))

    @property
    def _shortener(self) -> Shortener:
        return Shortener(self.formatter, self.max_length, self.truncation)

    def _encoded(self, messages: Sequence[Message]) -> list[tuple[Sequence[Message], Encoded]]:
        """The rows that it takes to learn the turns of a dialogue, each with the turns that it holds."""
        rows = self.formatter.encode_turns(messages)
        if self.supervise == "all":
            ends = self.formatter.template.turn_ends(messages)
            return [
                (messages[:end], Encoded(ids, [False, *flags[1:]]))
                for end, (ids, flags) in zip(ends, rows, strict=True)
            ]
        (ids, supervised), start = rows[-1], rows[-1].response_start
        learned = [flag and place >= max(start, 1) for place, flag in enumerate(supervised)]
        return [(messages, Encoded(ids, learned))]

    def _dialogue_rows(self, messages: Sequence[Message], tally: Tally) -> list[Row]:
        whole = self._encoded(messages)
        shortener = self._shortener
        rows = [row for part, encoded in whole for row in shortener.dialogue(part, encoded)]
        kept = [_row(ids, [False, *supervised[1:]]) for ids, supervised in rows if any(supervised[1:])]
        if not kept and all(len(encoded.ids) <= self.max_length for _, encoded in whole):
            raise RecordError(
                "a demonstration must keep at least one supervised token that something stands before, got none. Mend "
                "the row or the template."
            )
        tally.num_split += len(kept) > 1
        tally.count(
            sum(len(encoded.ids) for _, encoded in whole),
            sum(len(row["input_ids"]) for row in kept),
            sum(sum(encoded.supervised) for _, encoded in whole),
            sum(row["num_targets"] for row in kept),
        )
        return kept

    def _document_rows(self, record: Text, tally: Tally) -> list[Row]:
        ids = self.formatter.encode_text(record.text)
        if len(ids) < 2:
            raise RecordError("a text must have at least two tokens, got one: nothing is left to predict.")
        rows = [_row(piece, [False] + [True] * (len(piece) - 1)) for piece in self._shortener.document(ids)]
        learned = sum(row["num_targets"] for row in rows)
        tally.num_split += len(rows) > 1
        tally.count(len(ids), learned + bool(rows), len(ids) - 1, learned)
        return rows


@dataclass(frozen=True)
class RankingRows(Tokenization):
    """Rankings to the ids of a prompt and of its responses, dense ranks, rewards and targets.

    Args:
        formatter: template and tokenizer.
        max_length: tokens of prompt and response at most.
        converter: ranks to rewards.
        keep_all: also rankings without an ordered pair and candidates without a rank: to be scored, not learned from.
        truncation: what goes of a ranking that is longer.
    """

    formatter: PromptFormatter
    max_length: int
    converter: RankingConverter
    keep_all: bool = False
    truncation: Truncation = "turns"

    subject: ClassVar[str] = "RankingData"
    kinds: ClassVar[str] = "rankings"
    reads: ClassVar[tuple[type[Record], ...]] = (Ranking,)
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
        tally.num_margins += record.margin is not None
        converted = self._converted(record)
        ranked = np.isfinite(converted)
        if not _is_ordered(converted[ranked]):
            tally.num_unordered += 1
            if not self.keep_all:
                return
        targets = self._targets(record, converted, ranked)
        whole_prompt, whole = self._ids(record, (ranked | self.keep_all).tolist())
        prompt, responses = self._fitting(record, whole_prompt, whole)
        candidates = np.array([bool(response) for response in responses])
        ranked &= candidates
        ordered = _is_ordered(converted[ranked])
        kept = self.keep_all or ordered
        num_learned, num_kept = sum(map(len, whole)), sum(map(len, responses)) if kept else 0
        tally.count(len(whole_prompt) + num_learned, len(prompt) + num_kept if kept else 0, num_learned, num_kept)
        if not kept:
            return
        ranks = np.full(len(converted), -1 if self.keep_all else 0)
        # sums over annotators in another order differ in their last digits: those are ties
        ranks[ranked] = np.unique(-np.round(converted[ranked], 9), return_inverse=True)[1]
        yield {
            "prompt_ids": prompt,
            "responses": responses,
            "whole_lengths": list(map(len, whole)),
            "ranks": ranks.tolist(),
            "rewards": self._rewards(record, np.where(ranked, converted, 0.0)),
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
    def _rewards(record: Ranking, converted: Any) -> Any:
        """What margins are the differences of: a row's own margin stands before those of its ranks."""
        if record.margin is None:
            return converted.tolist()
        return (np.sign(converted - converted.mean()) * record.margin / 2).tolist()

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

    def _ids(self, record: Ranking, candidates: Sequence[bool]) -> tuple[list[int], list[list[int]]]:
        """Ids of the prompt and of each candidate."""
        return self.formatter.encode_prompt(record.prompt), [
            self.formatter.encode_response(record.prompt, response) if candidate else []
            for response, candidate in zip(record.responses, candidates, strict=True)
        ]

    def _fitting(
        self, record: Ranking, prompt: list[int], responses: list[list[int]]
    ) -> tuple[list[int], list[list[int]]]:
        """The same, as far as they fit: no ids of a candidate that does not."""
        shortener = Shortener(self.formatter, self.max_length, self.truncation)
        kept = shortener.ranking(record.prompt, prompt, record.responses, responses, keep_all=self.keep_all)
        return kept or ([], [[] for _ in responses])


@dataclass(frozen=True)
class PromptRows(Tokenization):
    """Prompts to ids, text, and the row's other fields as JSON.

    A demonstration is the prompt of its last assistant turn, with the column `response`; a ranking is its prompt.

    Args:
        formatter: template and tokenizer.
        max_prompt_length: tokens at most.
        truncation: what goes of a prompt that is longer.
    """

    formatter: PromptFormatter
    max_prompt_length: int
    truncation: Truncation = "turns"

    subject: ClassVar[str] = "prompts"
    kinds: ClassVar[str] = "prompts, demonstrations or rankings"
    reads: ClassVar[tuple[type[Record], ...]] = (Prompt, Demonstration, Ranking)
    features: ClassVar[Mapping[str, str]] = {
        "prompt_ids": _IDS,
        "text": "string",
        "messages": "string",
        "columns": "string",
    }

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """One row; none of a prompt that does not fit."""
        messages, columns = self._parts(record)
        whole = self.formatter.encode_prompt(messages)
        if not whole:
            raise RecordError("a prompt must have at least one token, got none. Give it text, or use another template.")
        kept = Shortener(self.formatter, self.max_prompt_length, self.truncation).prompt(messages, whole)
        tally.count(len(whole), 0 if kept is None else len(kept[1]))
        if kept is None:
            return
        messages, ids = kept
        stored, left_out = json_columns(columns)
        tally.columns_left_out.extend(name for name in dict.fromkeys(left_out) if name not in tally.columns_left_out)
        yield {
            "prompt_ids": ids,
            "text": self.formatter.render_prompt(messages),
            "messages": json.dumps([[message.role, message.content] for message in messages]),
            "columns": stored,
        }

    def _parts(self, record: Record) -> tuple[Sequence[Message], dict[str, Any]]:
        if isinstance(record, Prompt):
            return record.prompt, dict(record.columns)
        if isinstance(record, Ranking):
            return record.prompt, {}
        if isinstance(record, Demonstration):
            last = max(place for place, message in enumerate(record.messages) if message.role == "assistant")
            return record.messages[:last], {"response": record.messages[last].content}
        raise self.misfit(record)


def _is_ordered(rewards: "np.ndarray[Any, np.dtype[np.float64]]") -> bool:
    return len(np.unique(np.round(rewards, 9))) > 1


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
