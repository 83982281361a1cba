import pytest
from lightning_rlhf_judge.comparing import ComparisonJudge

from lightning_rlhf.errors import ConfigError, ScorerError


@pytest.mark.parametrize(
    ("verdict", "number"),
    [
        ("Verdict: A", 1),
        ("B is kinder.\n**Verdict:** B.", 0),
        ("Verdict: tie", 0.5),
        ("verdict: a tie", 0.5),
        ("Verdict: Response B", 0),
        ('{"verdict": "A"}', 1),
        ("Verdict: A or B", None),
        ("Verdict: neither", None),
        ("Verdict: A\nNo, wait.\nVerdict: B", None),
        ("Verdict: B\nThe first one ends in:\nVerdict: A", None),
        ("A", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_line_and_the_only_one(verdict, number):
    assert ComparisonJudge("m", baseline="").read(verdict) == number


@pytest.fixture
def made(judge):
    def make(**arguments):
        return ComparisonJudge("m", base_url=judge.base_url, cache=None, template="{first}|{second}", **arguments)

    return make


def prefers(better):
    """A judge that knows what it wants, wherever that stands."""
    return lambda body: f"Verdict: {'A' if body['messages'][0]['content'].startswith(better) else 'B'}"


def test_a_response_is_compared_with_the_baseline_in_both_orders(made, judge):
    judge.script = [prefers("good")]
    assert made(baseline="bad")(["p"], ["good"]) == [1.0]
    assert sorted(request["messages"][0]["content"] for request in judge.requests) == ["bad|good", "good|bad"]
    assert made(baseline="good")(["p"], ["bad"]) == [0.0]


def test_a_judge_that_favours_a_place_gives_a_tie(made, judge):
    judge.script = ["Verdict: A"]
    assert made(baseline="one")(["p"], ["other"]) == [0.5]
    judge.script = ["Verdict: B"]
    assert made(baseline="one")(["p"], ["other"]) == [0.5]


def test_half_a_win_counts_three_quarters(made, judge):
    judge.script = [lambda body: "Verdict: tie" if body["messages"][0]["content"].startswith("base") else "Verdict: A"]
    assert made(baseline="base")(["p"], ["other"]) == [0.75]


def test_each_row_brings_its_own_baseline(made, judge):
    judge.script = [prefers("good")]
    scores = made(baseline_column="answer")(["p", "p"], ["good", "fair"], answer=["bad", "good"])
    assert scores == [1.0, 0.0]


def test_a_row_without_a_baseline_stops_with_its_prompt(made):
    with pytest.raises(ScorerError, match=r"must get the column 'answer'.*for the prompt 'second'"):
        made(baseline_column="answer")(["first", "second"], ["r", "r"], answer=["known", None])


@pytest.mark.parametrize("arguments", [{}, {"baseline": "b", "baseline_column": "c"}])
def test_one_baseline_must_be_given(arguments):
    with pytest.raises(ConfigError, match="either baseline_column or baseline"):
        ComparisonJudge("m", **arguments)


def test_the_template_must_hold_both_responses():
    with pytest.raises(ConfigError, match=r"template must hold \{second\}"):
        ComparisonJudge("m", baseline="b", template="{first}")
