"""Real dialogues from an installed package, as the files that the demo's configs read."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from lightning_rlhf.errors import ConfigError

__all__ = ["Corpus", "read_corpus", "write_lines"]

_LEFT_OUT = {"trivia.yml", "tech_support.yml", "coding.yml"}
"""Categories of facts and source code: their answers do not read as conversation."""
_ALTERNATIVES = {"emotion.yml", "computers.yml"}
"""Categories whose later lines are other answers to the first, not the next turns."""
_MAX_WORDS = 16
"""Longer turns are little lectures; a model this small learns to talk sooner without them."""
_HELD_OUT_PERCENT = 15


class Corpus(NamedTuple):
    """Questions with their answers; no question stands in both."""

    train: list[tuple[str, str]]
    heldout: list[tuple[str, str]]

    @property
    def train_prompts(self) -> list[str]:
        """The training questions, each once."""
        return list(dict.fromkeys(prompt for prompt, _ in self.train))

    @property
    def heldout_prompts(self) -> list[str]:
        """The held-out questions, each once."""
        return list(dict.fromkeys(prompt for prompt, _ in self.heldout))

    @property
    def sentences(self) -> list[str]:
        """All training turns, each once."""
        return list(dict.fromkeys(turn for pair in self.train for turn in pair))

    def texts(self, num_rounds: int, seed: int) -> list[str]:
        """What the model is pretrained on: two sentences to a text, drawn anew in every round.

        The corpus is so small that a model that reads its dialogues over and over knows them by heart, and babbles
        after a question that it has not seen. From sentences in any order it learns to write; to answer is what
        supervised fine-tuning teaches.
        """
        random = Random(seed)
        texts = []
        for _ in range(num_rounds):
            firsts, seconds = (random.sample(self.sentences, len(self.sentences)) for _ in range(2))
            texts += ["\n".join(pair) for pair in zip(firsts, seconds, strict=True)]
        return texts


def read_corpus() -> Corpus:
    """The English dialogues of chatterbot-corpus (BSD licence), split by a hash of the question.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from chatterbot_corpus.corpus import DATA_DIRECTORY
    except ImportError:
        raise ConfigError(
            "the demo must find the package chatterbot-corpus, got none. Install it: pip install 'lightning-rlhf[demo]'"
        ) from None
    pairs: dict[tuple[str, str], None] = {}
    for path in sorted(Path(DATA_DIRECTORY, "english").glob("*.yml")):
        if path.name not in _LEFT_OUT:
            conversations = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
            pairs |= dict.fromkeys(pair for turns in conversations for pair in _pairs(turns, path.name))
    heldout = [pair for pair in pairs if _is_held_out(pair[0])]
    return Corpus([pair for pair in pairs if not _is_held_out(pair[0])], heldout)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _pairs(turns: object, category: str) -> list[tuple[str, str]]:
    if not isinstance(turns, list):
        return []
    sentences = [_sentence(" ".join(str(turn).split())) for turn in turns if str(turn).strip()]
    alternatives = category in _ALTERNATIVES
    pairs = [(sentences[0], answer) for answer in sentences[1:]] if alternatives else list(pairwise(sentences))
    return [pair for pair in pairs if all(len(turn.split()) <= _MAX_WORDS for turn in pair)]


def _sentence(text: str) -> str:
    """The corpus was typed by many hands: some in capitals, some without a full stop."""
    if text.isupper() and len(text) > 4:
        text = text.lower()
    text = re.sub(r"\bi\b(?!\.)", "I", text)
    if text.count('"') % 2:
        text = text.strip(" '\"")
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", '"')) else f"{text}."


def _is_held_out(prompt: str) -> bool:
    digest = hashlib.sha1(prompt.lower().encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 100 < _HELD_OUT_PERCENT
