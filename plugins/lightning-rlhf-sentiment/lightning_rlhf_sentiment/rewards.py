"""Reward functions over sentiment libraries: each scores a response between `-scale` and `scale`."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from lightning_rlhf import RewardFunction
from lightning_rlhf.errors import ConfigError
from lightning_rlhf_sentiment.libraries import library

__all__ = ["SnowNLPReward", "TextBlobReward", "VaderReward"]

_CHINESE = re.compile("[\u4e00-\u9fff]")


class _SentimentReward(RewardFunction):
    """Scores how much a response has of a label."""

    labels: tuple[str, ...] = ("positive", "negative", "neutral")

    def __init__(self, label: str, scale: float) -> None:
        if label not in self.labels:
            raise ConfigError(f"label must be one of {', '.join(self.labels)}, got {label!r}.")
        if not scale > 0:
            raise ConfigError(f"scale must be above 0, got {scale}. Choose another label to turn the score round.")
        self.label = label
        self.scale = scale

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        return [self.scale * self._share(response) for response in responses]

    def _share(self, response: str) -> float:
        """How much of the label there is, from -1 to 1."""
        valence = self._valence(response)
        if self.label == "neutral":
            return 1 - 2 * abs(valence)
        return valence if self.label == "positive" else -valence

    @abstractmethod
    def _valence(self, response: str) -> float:
        """From -1, negative, to 1, positive; 0 where nothing tells."""


class VaderReward(_SentimentReward):
    """Sentiment of an English response by VADER: a lexicon with rules for negation, emphasis, emoticons and emoji.

    With v = VADER's compound score in [-1, 1] the score is `scale * v` for positive, `-scale * v` for negative and
    `scale * (1 - 2 |v|)` for neutral. VADER adds up words: what it says of a long text is near -1 or 1.
    Hutto and Gilbert 2014.

    Args:
        label: what to reward.
        scale: the highest score; its negative is the lowest.
    """

    def __init__(self, label: Literal["positive", "negative", "neutral"] = "positive", scale: float = 1.0) -> None:
        super().__init__(label, scale)
        self._analyzer = library(
            "vaderSentiment.vaderSentiment", "vaderSentiment", "vader"
        ).SentimentIntensityAnalyzer()

    def _valence(self, response: str) -> float:
        return float(self._analyzer.polarity_scores(response)["compound"])


class TextBlobReward(_SentimentReward):
    """Polarity or subjectivity of an English response by TextBlob: the mean over the opinion words of a lexicon.

    With p = TextBlob's polarity in [-1, 1] the score is `scale * p` for positive, `-scale * p` for negative and
    `scale * (1 - 2 |p|)` for neutral; with s = its subjectivity in [0, 1] it is `scale * (2 s - 1)` for subjective and
    the negative of that for objective. De Smedt and Daelemans 2012.

    Args:
        label: what to reward.
        scale: the highest score; its negative is the lowest.
    """

    labels = (*_SentimentReward.labels, "subjective", "objective")

    def __init__(
        self,
        label: Literal["positive", "negative", "neutral", "subjective", "objective"] = "positive",
        scale: float = 1.0,
    ) -> None:
        super().__init__(label, scale)
        self._analyzer = library("textblob.en.sentiments", "textblob", "textblob").PatternAnalyzer()

    def _share(self, response: str) -> float:
        if self.label not in ("subjective", "objective"):
            return super()._share(response)
        share = 2 * float(self._analyzer.analyze(response).subjectivity) - 1
        return share if self.label == "subjective" else -share

    def _valence(self, response: str) -> float:
        return float(self._analyzer.analyze(response).polarity)


class SnowNLPReward(_SentimentReward):
    """Sentiment of a Chinese response by SnowNLP: naive Bayes over words, trained on reviews of goods and hotels.

    With p = the probability of a positive review and v = 2 p - 1 the score is `scale * v` for positive, `-scale * v`
    for negative and `scale * (1 - 2 |v|)` for neutral. A response without a Chinese character has v = 0. The classifier
    adds up words: what it says of a long text is near -1 or 1.

    Args:
        label: what to reward.
        scale: the highest score; its negative is the lowest.
    """

    def __init__(self, label: Literal["positive", "negative", "neutral"] = "positive", scale: float = 1.0) -> None:
        super().__init__(label, scale)
        self._classify = library("snownlp.sentiment", "snownlp", "snownlp").classify

    def _valence(self, response: str) -> float:
        if not _CHINESE.search(response):
            return 0.0  # the classifier would answer with the share of positive reviews in its training
        return 2 * float(self._classify(response)) - 1
