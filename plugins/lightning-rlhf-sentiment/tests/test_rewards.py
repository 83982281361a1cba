import pytest

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.registry import create
from lightning_rlhf.testing import RewardFunctionContract


def score(name, response, **arguments):
    return create("reward_function", name, **arguments)([""], [response])[0]


class TestVader(RewardFunctionContract):
    component = "vader"


class TestTextBlob(RewardFunctionContract):
    component = "textblob"
    init_args = {"label": "subjective", "scale": 3.0}


class TestSnowNLP(RewardFunctionContract):
    component = "snownlp"


GOOD_AND_BAD = {
    "vader": ("What a wonderful film, I love it!", "A terrible film, I hate it."),
    "textblob": ("What a wonderful film!", "A terrible film."),
    "snownlp": ("这本书非常好，很喜欢", "房间太差了，不推荐"),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_labels_order_good_bad_and_indifferent(name):
    good, bad = GOOD_AND_BAD[name]
    nothing = "The 12th of May."
    assert score(name, good) > score(name, nothing) > score(name, bad)
    for response in (good, bad, nothing):
        assert score(name, response, label="negative") == -score(name, response)
        neutral = score(name, response, label="neutral")
        assert neutral == pytest.approx(1 - 2 * abs(score(name, response)))
    assert score(name, nothing) == 0
    assert score(name, nothing, label="neutral") == 1
    assert score(name, "") == 0


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_the_scale_is_the_highest_score(name):
    good, bad = GOOD_AND_BAD[name]
    assert score(name, good, scale=5.0) == 5 * score(name, good)
    assert 0 < score(name, good) <= 1
    assert -1 <= score(name, bad) < 0


def test_vader_is_the_compound_score_of_its_paper():
    # Hutto and Gilbert's own example, as the README of vaderSentiment prints it
    assert score("vader", "VADER is smart, handsome, and funny.") == 0.8316
    assert score("vader", "VADER is not smart, handsome, nor funny.") == -0.7424


def test_textblob_tells_opinions_from_facts():
    opinion, fact = "Beautiful is better than ugly.", "Water boils at 100 degrees."
    assert score("textblob", opinion, label="subjective") > 0
    assert score("textblob", fact, label="subjective") == -1
    assert score("textblob", fact, label="objective") == 1
    assert score("textblob", opinion, label="objective") == -score("textblob", opinion, label="subjective")


def test_snownlp_is_twice_the_probability_less_one():
    from snownlp import SnowNLP

    text = "这本书很好，但是印刷有点差"
    assert score("snownlp", text) == 2 * SnowNLP(text).sentiments - 1


@pytest.mark.parametrize(
    ("name", "arguments", "rule"),
    [
        ("vader", {"label": "happy"}, "label must be one of positive, negative, neutral, got 'happy'"),
        ("snownlp", {"label": "subjective"}, "label must be one of positive, negative, neutral, got 'subjective'"),
        ("textblob", {"label": ""}, "label must be one of positive, negative, neutral, subjective, objective, got ''"),
        ("vader", {"scale": 0.0}, "scale must be above 0, got 0.0"),
        ("textblob", {"scale": float("nan")}, "scale must be above 0, got nan"),
    ],
)
def test_arguments_without_meaning_are_refused(name, arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        create("reward_function", name, **arguments)
