"""What the demo measures by itself: sentiment by two independent works, repetition, rank correlation."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.errors import ConfigError

__all__ = ["Measures", "distinct_2", "rank_correlation", "sentiment_judge", "sentiment_scorer"]

Judge = Callable[[str], float]


class Measures(NamedTuple):
    """Of one set of responses."""

    judge: float
    """Mean, in [0, 1]."""
    scorer: float
    """Mean, in [0, 1]."""
    length: float
    """Mean, tokens."""
    distinct_2: float
    """Share of distinct pairs of neighbouring words among all pairs."""
    kl: float
    """Mean over responses of the sum over tokens, nats; 0 for the reference itself."""


def sentiment_judge() -> Judge:
    """TextBlob's polarity (the lexicon of De Smedt and Daelemans 2012), in [0, 1]: it judges and trains nothing."""
    try:
        from textblob import TextBlob
    except ImportError:
        raise _missing("textblob") from None
    return lambda text: (float(TextBlob(text).sentiment.polarity) + 1) / 2


def sentiment_scorer() -> Judge:
    """VADER's compound sentiment (Hutto and Gilbert 2014), mapped to [0, 1]: it rates and ranks."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise _missing("vaderSentiment") from None
    analyzer = SentimentIntensityAnalyzer()
    return lambda text: (float(analyzer.polarity_scores(text)["compound"]) + 1) / 2


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct pairs of neighbouring words over all pairs (Li et al. 2016); 0 where there is none.

    >>> distinct_2(["so so so good"])
    0.6666666666666666
    """
    words = [text.lower().split() for text in texts]
    pairs = [pair for sentence in words for pair in pairwise(sentence)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; nan where one side is constant.

    >>> round(rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 9.0]), 6)
    1.0
    """
    ranks = [_mean_ranks(np.asarray(values)) for values in (first, second)]
    if any(np.ptp(values) == 0 for values in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _missing(package: str) -> ConfigError:
    return ConfigError(
        f"the demo must find the package {package}, got none. Install it: pip install 'lightning-rlhf[demo]'"
    )
