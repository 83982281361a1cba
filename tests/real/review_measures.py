"""What the reviews experiment measures, and the rows that it measures on.

Every sentence has a place in [0, 1) by a hash of its text. Rows from `1 - JUDGE_SHARE` on are the judge's alone: the
files that the stages are given do not hold them. The stages hold out the rows below their `val_fraction` by the same
hash, so that a sentence held out in one stage is held out in all, and train on what is left between.
"""

import gzip
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

__all__ = ["JUDGE_SHARE", "Judge", "Reviews", "area_under_curve", "divide_reviews", "encoded", "nats_per_token"]

JUDGE_SHARE = 0.3

_ROWS_PER_PASS = 64


class Reviews(NamedTuple):
    """Movie-review sentences by label, divided."""

    files: dict[str, Path]
    """positive and negative: what the stages are given."""
    heldout: dict[str, list[str]]
    """positive and negative: what no stage trains on and the judge was not fitted on."""
    judge: dict[str, list[str]]
    """positive and negative: what the judge is fitted on and no stage sees."""


def divide_reviews(positive: Path, negative: Path, folder: Path, val_fraction: float) -> Reviews:
    """Takes out the judge's rows and writes the others into a folder.

    Args:
        positive: packed text file of positive sentences, one a line.
        negative: the same of negative ones.
        folder: where the stages' files go.
        val_fraction: what the stages hold out.
    """
    reviews = Reviews({}, {}, {})
    for label, source in (("positive", positive), ("negative", negative)):
        lines = gzip.decompress(source.read_bytes()).decode("utf-8").splitlines()
        sentences = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        reviews.judge[label] = [sentence for sentence in sentences if _place(sentence) >= 1 - JUDGE_SHARE]
        reviews.heldout[label] = [sentence for sentence in sentences if _place(sentence) < val_fraction]
        file = reviews.files[label] = folder / f"{label}.txt"
        kept = [sentence for sentence in sentences if _place(sentence) < 1 - JUDGE_SHARE]
        file.write_text("".join(f"{sentence}\n" for sentence in kept), encoding="utf-8")
    return reviews


class Judge:
    """A naive Bayes classifier of words and pairs of neighbouring words.

    Args:
        positive: sentences to fit it on.
        negative: the same.
    """

    def __init__(self, positive: Sequence[str], negative: Sequence[str]) -> None:
        words_and_pairs = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
        self._classifier = make_pipeline(words_and_pairs, MultinomialNB())
        self._classifier.fit([*positive, *negative], [1] * len(positive) + [0] * len(negative))

    def __call__(self, texts: Sequence[str]) -> float:
        """Mean of 2p - 1, p the probability that a text is positive: from -1 to 1."""
        return float(np.mean(2 * self._positive(texts) - 1))

    def area_under_curve(self, positive: Sequence[str], negative: Sequence[str]) -> float:
        """How well it tells sentences that it has not seen."""
        return _area(self._positive(positive), self._positive(negative))

    def _positive(self, texts: Sequence[str]) -> Any:
        return self._classifier.predict_proba(list(texts))[:, 1]


def nats_per_token(model: str | Path, sentences: Sequence[str]) -> float:
    """Mean negative log-likelihood of the tokens of sentences, EOS included, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network: Any = AutoModelForCausalLM.from_pretrained(model)  # in eval mode

    def totals(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logprobs = network(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        taken = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
        return torch.stack([-(taken * mask[:, 1:]).sum(-1), mask[:, 1:].sum(-1).float()])

    total, number = _over_rows(totals, tokenizer, sentences).sum(-1).tolist()
    return float(total / number)


def area_under_curve(model: str | Path, positive: Sequence[str], negative: Sequence[str]) -> float:
    """Share of all pairs of a positive and a negative sentence in which the reward model prefers the positive one."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network: Any = AutoModelForSequenceClassification.from_pretrained(model)  # in eval mode

    def scores(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # the classes of transformers look for the padding token to find the last one; the padding here has its id
        ids = ids.masked_fill(mask == 0, network.config.pad_token_id)
        logits: torch.Tensor = network(input_ids=ids, attention_mask=mask).logits
        return logits.T

    return _area(*(_over_rows(scores, tokenizer, sentences)[0].numpy() for sentences in (positive, negative)))


def encoded(tokenizer: Any, sentence: str) -> list[int]:
    """The ids of a sentence as the stages see it: it stands alone, between BOS and EOS."""
    return [tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


@torch.no_grad()
def _over_rows(measure: Callable[..., torch.Tensor], tokenizer: Any, sentences: Sequence[str]) -> torch.Tensor:
    """A measure of each sentence: `(numbers, sentences)`, in the order of their lengths."""
    rows = sorted((encoded(tokenizer, sentence) for sentence in sentences), key=len)
    parts = []
    for start in range(0, len(rows), _ROWS_PER_PASS):
        chunk = [torch.tensor(row) for row in rows[start : start + _ROWS_PER_PASS]]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in chunk], batch_first=True)
        parts.append(measure(torch.nn.utils.rnn.pad_sequence(chunk, batch_first=True), mask))
    return torch.cat(parts, dim=-1)


def _area(positive: Any, negative: Any) -> float:
    return float(roc_auc_score([1] * len(positive) + [0] * len(negative), np.concatenate([positive, negative])))


def _place(sentence: str) -> float:
    """The hash by which the source `file` and the components of the configs divide texts."""
    return int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "big") / 2**64
