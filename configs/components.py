"""Dataset components for the configs beside this file: rows that `columns:` alone cannot map, in a few lines each.

Run from the folder that holds `configs/`, and name a class by its path, `configs.components.ReviewPairs`. For use in
more than one place, put such a class into a plug-in.
"""

import random
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_rlhf import DataSource, Demonstration, Message, Prompt, Ranking, Text
from lightning_rlhf.builtins.files import FileFormat, read_rows
from lightning_rlhf.builtins.splitting import assigned_split
from lightning_rlhf.errors import BadRowError, DataError, RecordError
from lightning_rlhf.records import Record

__all__ = ["KdConvDialogues", "OasstRankings", "OasstThreads", "PandaLMRankings", "ReviewPairs", "ReviewPrompts"]

_UNSPACED = "\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\uff00-\uffef"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


class ReviewPairs(DataSource):
    """Rankings of a positive over a negative sentence, both read as responses to an empty prompt.

    Args:
        positive: text file of positive sentences, one a line, plain or .gz.
        negative: text file of negative sentences.
        pairs_per_sentence: how often each positive sentence is used, each time against another negative one.
        val_fraction: share of the sentences to hold out, by a hash of the line: the same ones as the source `file`
            holds out of these files.
        seed: of the pairing.
    """

    def __init__(
        self, positive: str, negative: str, pairs_per_sentence: int = 1, val_fraction: float = 0.1, seed: int = 0
    ) -> None:
        self.positive = positive
        self.negative = negative
        self.pairs_per_sentence = pairs_per_sentence
        self.val_fraction = val_fraction
        self.seed = seed

    def load(self, split: str) -> Iterable[Ranking]:
        """The pairs of a split: no sentence stands on both sides."""
        better, worse = (_sentences(file, split, self.val_fraction) for file in (self.positive, self.negative))
        generator = random.Random(self.seed)
        for _ in range(self.pairs_per_sentence):
            generator.shuffle(worse)
            for first, second in zip(better, worse, strict=False):
                yield Ranking((Message("user", ""),), (first, second), ((0, 1),))


class ReviewPrompts(DataSource):
    """Prompts: the first words of each sentence of both files.

    Args:
        positive: text file of positive sentences, one a line, plain or .gz.
        negative: text file of negative sentences.
        num_words: words of a sentence to start from; shorter sentences are left out. In Chinese and Japanese, which are
            written without spaces, each character counts as a word.
        val_fraction: share of the sentences to hold out: the same ones as `ReviewPairs` holds out.
    """

    def __init__(self, positive: str, negative: str, num_words: int = 3, val_fraction: float = 0.1) -> None:
        self.positive = positive
        self.negative = negative
        self.num_words = num_words
        self.val_fraction = val_fraction

    def load(self, split: str) -> Iterable[Prompt]:
        """The prompts of a split."""
        for file in (self.positive, self.negative):
            for sentence in _sentences(file, split, self.val_fraction):
                words = list(_WORD.finditer(sentence))
                if len(words) > self.num_words:
                    start = sentence[: words[self.num_words - 1].end()]
                    yield Prompt((Message("user", " ".join(start.split())),))


class _JSONLines(DataSource):
    """Records out of the rows of one jsonl file.

    Args:
        path: the file, plain or .gz.
        val_fraction: share of the dialogues to hold out, by a hash of what stands before their first answer.
    """

    def __init__(self, path: str, val_fraction: float = 0.1) -> None:
        self.path = path
        self.val_fraction = val_fraction

    def load(self, split: str) -> Iterator[Any]:
        """The records of a split; in place of each bad row a `BadRowError` that names its line."""
        for number, row in _rows(self.path):
            try:
                if isinstance(row, RecordError):
                    raise row
                records = list(self.records(row))
            except (RecordError, AttributeError, KeyError, TypeError) as error:
                if split == "train":  # told of once
                    yield self._bad_row(error, number)
                continue
            yield from (record for record in records if assigned_split(record, self.val_fraction, 0.0) == split)

    @abstractmethod
    def records(self, row: Mapping[str, Any]) -> Iterable[Record]:
        """The records of a row."""

    def _bad_row(self, error: Exception, number: int) -> BadRowError:
        what = str(error)
        if not isinstance(error, RecordError):
            what = f"a row must have the fields that {type(self).__name__} reads, got {type(error).__name__}: {error}."
        return BadRowError(what, origin=self.path, line=number)


class OasstRankings(_JSONLines):
    """Human rankings in OpenAssistant's conversation trees, one wherever at least two answers to a turn are ranked.

    The prompt is the dialogue down to that turn. An answer beside them that nobody ranked stays, unranked.

    Args:
        path: jsonl file with one tree per line, plain or .gz.
        val_fraction: share of the trees to hold out, by a hash of their first turn.
    """

    def records(self, row: Mapping[str, Any]) -> Iterator[Ranking]:
        """The rankings of a tree."""
        return self._below(row["prompt"], ())

    def _below(self, node: Mapping[str, Any], before: tuple[Message, ...]) -> Iterator[Ranking]:
        dialogue = (*before, _oasst_message(node))
        answers = [reply for reply in node["replies"] if reply["role"] == "assistant"]
        ranks = tuple(answer.get("rank") for answer in answers)
        if len(ranks) - ranks.count(None) >= 2:
            yield Ranking(dialogue, tuple(answer["text"] for answer in answers), (ranks,))
        for reply in node["replies"]:
            yield from self._below(reply, dialogue)


class OasstThreads(DataSource):
    """Dialogues in OpenAssistant's flat list of messages, one from each first message to each last one below it.

    Args:
        path: jsonl file with one message per line, plain or .gz.
        val_fraction: share of the threads to hold out, by a hash of their first turn.
    """

    def __init__(self, path: str, val_fraction: float = 0.1) -> None:
        self.path = path
        self.val_fraction = val_fraction

    def load(self, split: str) -> Iterator[Demonstration]:
        """The dialogues of a split.

        Raises:
            BadRowError: a line is no message; threads cannot be told apart without it.
        """
        messages: dict[str, tuple[Message, str | None]] = {}
        for number, row in _rows(self.path):
            try:
                messages[row["user_message_id"]] = (_oasst_message(row), row["parent_message_id"])
            except (RecordError, AttributeError, KeyError, TypeError):
                what = "a row must have a text, a role, a user_message_id and a parent_message_id."
                raise BadRowError(what, origin=self.path, line=number) from None
        parents = {parent for _, parent in messages.values() if parent is not None}
        if unknown := parents - messages.keys():
            raise DataError(f"{self.path} must hold every parent of its messages, got none named {min(unknown)!r}.")
        for leaf in [name for name in messages if name not in parents]:
            turns = []
            place: str | None = leaf
            while place is not None:
                turn, place = messages[place]
                turns.append(turn)
            if all(turn.role != "assistant" for turn in turns):
                continue  # nobody answered
            thread = Demonstration(tuple(reversed(turns)))
            if assigned_split(thread, self.val_fraction, 0.0) == split:
                yield thread


class KdConvDialogues(_JSONLines):
    """KdConv's dialogues between two people, whose turns carry no role: the first speaker is the user.

    Args:
        path: jsonl file with one dialogue per line, plain or .gz.
        val_fraction: share of the dialogues to hold out, by a hash of their first turn.
    """

    def records(self, row: Mapping[str, Any]) -> list[Demonstration]:
        """The dialogue of a row."""
        roles = ("user", "assistant")
        turns = enumerate(row["messages"])
        return [Demonstration(tuple(Message(roles[place % 2], turn["message"]) for place, turn in turns))]


class PandaLMRankings(_JSONLines):
    """PandaLM's comparisons of two responses by three annotators, who may disagree or call it a tie.

    Args:
        path: jsonl file with one comparison per line, plain or .gz.
        val_fraction: share of the instructions to hold out, by their hash.
    """

    _places: Mapping[int, tuple[int, int]] = {0: (0, 0), 1: (0, 1), 2: (1, 0)}

    def records(self, row: Mapping[str, Any]) -> list[Ranking]:
        """The comparison of a row."""
        prompt = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        ranks = tuple(self._places[row[f"annotator{number}"]] for number in (1, 2, 3))
        return [Ranking((Message("user", prompt),), (row["response1"], row["response2"]), ranks)]


def _oasst_message(row: Mapping[str, Any]) -> Message:
    return Message({"prompter": "user"}.get(row["role"], row["role"]), row["text"])


def _rows(path: str, file_format: FileFormat = "jsonl") -> Iterator[tuple[int, Any]]:
    """Line numbers and rows of a file, an error in place of a row that cannot be read."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"a data file must exist, got {path!r}, looked for in {Path.cwd()}.")
    return read_rows(file, file_format)


def _sentences(file: str, split: str, val_fraction: float) -> list[str]:
    """The sentences of a split; there is no test split."""
    kept: dict[str, None] = {}
    for number, row in _rows(file, "text"):
        if isinstance(row, RecordError):
            raise BadRowError(str(row), origin=file, line=number)
        if assigned_split(Text(row["text"]), val_fraction, 0.0) == split:
            kept[row["text"].strip()] = None
    return list(kept)
