"""Dataset components for the configs beside this file: rows that `columns:` alone cannot map.

Run from the folder that holds `configs/`, and name a class by its path, `configs.components.ReviewPairs`. For use in
more than one place, put such a class into a plug-in.
"""

import gzip
import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

from lightning_rlhf import DataSource, Message, Prompt, Ranking

__all__ = ["ReviewPairs", "ReviewPrompts"]


class ReviewPairs(DataSource):
    """Rankings of a positive over a negative sentence, both read as responses to an empty prompt.

    Args:
        positive: text file of positive sentences, one a line, plain or .gz.
        negative: text file of negative sentences.
        pairs_per_sentence: how often each positive sentence is used, each time against another negative one.
        val_fraction: share of the sentences to hold out, by a hash of the sentence.
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
        num_words: words of a sentence to start from; shorter sentences are left out.
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
                words = sentence.split()
                if len(words) > self.num_words:
                    yield Prompt(" ".join(words[: self.num_words]))


def _sentences(file: str, split: str, val_fraction: float) -> list[str]:
    """The sentences of a split; there is no test split."""
    path = Path(file).expanduser()
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    sentences = dict.fromkeys(line.strip() for line in raw.decode("utf-8").splitlines() if line.strip())
    return [sentence for sentence in sentences if _split_of(sentence, val_fraction) == split]


def _split_of(sentence: str, val_fraction: float) -> str:
    place = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big") / 2**64
    return "validation" if place < val_fraction else "train"
