"""The demo's own measurements."""

import math
import sys

import pytest
from scipy.stats import spearmanr

from lightning_rlhf.cli.demo.measures import Measures, distinct_2, rank_correlation, sentiment_judge, sentiment_scorer
from lightning_rlhf.cli.demo.targets import targets
from lightning_rlhf.errors import ConfigError


@pytest.mark.parametrize("make", [sentiment_scorer, sentiment_judge])
def test_a_friendly_sentence_scores_above_a_neutral_and_a_hostile_one(make):
    rate = make()
    friendly, neutral, hostile = (
        rate("I love this wonderful day."),
        rate("It is a day."),
        rate("I hate this awful day."),
    )
    assert 1 >= friendly > 0.7 > neutral > 0.3 > hostile >= 0
    assert neutral == 0.5
    assert rate("") == 0.5


def test_length_does_not_move_the_scores_of_neutral_text():
    for make in (sentiment_scorer, sentiment_judge):
        assert make()("It is a table. " * 30) == 0.5


def test_rank_correlation_is_that_of_scipy_also_with_ties():
    first, second = [1.0, 1.0, 2.0, 5.0, 3.0, 3.0], [0.0, 2.0, 2.0, 4.0, 9.0, 1.0]
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert math.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0]))


def test_distinct_2_falls_when_words_repeat_within_and_between_texts():
    assert distinct_2(["a b c", "d e f"]) == 1.0
    assert distinct_2(["a b a b a b"]) == pytest.approx(2 / 5)
    assert distinct_2(["a b", "a b"]) == 0.5
    assert distinct_2(["a", ""]) == 0.0


@pytest.mark.parametrize(
    ("package", "make"),
    [("vaderSentiment.vaderSentiment", sentiment_scorer), ("textblob", sentiment_judge)],
    ids=["scorer", "judge"],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(package, make, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"must find the package {package.split('.')[0]}.*pip install"):
        make()


def test_every_target_can_be_missed():
    sft = Measures(judge=0.5, scorer=0.5, length=10.0, distinct_2=0.8, kl=0.0)
    good = Measures(judge=0.7, scorer=0.7, length=9.0, distinct_2=0.7, kl=6.0)
    reached = targets(cpu_seconds=200, accuracy=0.7, longer_wins=0.5, before=sft, after=good)
    assert all(target.met for target in reached)
    bad = Measures(judge=0.6, scorer=0.7, length=5.0, distinct_2=0.3, kl=16.0)
    missed = targets(cpu_seconds=301, accuracy=0.5, longer_wins=0.5, before=sft, after=bad)
    assert not any(target.met for target in missed)
