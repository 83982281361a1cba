"""Which numbers of an iteration break a limit, and what is said of it."""

from dataclasses import replace

import pytest

from lightning_rlhf.callbacks.collapse_signs import IterationRecord, Limits
from lightning_rlhf.errors import ConfigError

LIMITS = Limits(
    max_kl=0.5,
    min_entropy=0.2,
    min_length=0.4,
    max_length=2.0,
    min_distinct_2=0.6,
    min_score_deviation=0.1,
    min_stop_rate=0.5,
    max_heldout_drop=0.5,
)
FIRST = IterationRecord(
    iteration=0,
    step=0,
    num_responses=1000,
    kl=0.0,
    score=1.0,
    score_deviation=2.0,
    entropy=40.0,
    response_length=20.0,
    distinct_2=0.9,
    stop_rate=0.8,
)


def found(*records, limits=LIMITS):
    return {finding.cause: finding.message for finding in limits.findings(records)}


def after(iteration=1, **changes):
    return replace(FIRST, iteration=iteration, **changes)


@pytest.mark.parametrize(
    ("cause", "within", "beyond"),
    [
        ("kl", {"kl": 20.0}, {"kl": 20.1}),
        ("entropy", {"entropy": 8.0}, {"entropy": 7.9}),
        ("short", {"response_length": 8.0, "entropy": 16.0}, {"response_length": 7.9, "entropy": 16.0}),
        ("long", {"response_length": 40.0}, {"response_length": 40.1}),
        ("repetition", {"distinct_2": 0.54}, {"distinct_2": 0.53}),
        ("spread", {"score_deviation": 0.2}, {"score_deviation": 0.19}),
        ("stop", {"stop_rate": 0.4}, {"stop_rate": 0.39}),
    ],
)
def test_each_limit_is_a_share_of_what_the_first_iteration_had(cause, within, beyond):
    assert found(FIRST) == {}
    assert found(FIRST, after(**within)) == {}
    assert found(FIRST, after(**beyond)).keys() == {cause}


def test_entropy_is_compared_per_token_so_that_shorter_responses_do_not_count_as_collapse():
    shorter = after(response_length=10.0, entropy=20.0)
    assert shorter.token_entropy == FIRST.token_entropy == 2.0
    assert "entropy" not in found(FIRST, shorter)


def test_the_message_says_value_limit_and_what_to_do():
    message = found(FIRST, after(entropy=3.0))["entropy"]
    assert message == (
        "the policy's entropy must stay above 0.4 nats per token (min_entropy 0.2 x the first iteration's value 2), "
        "got 0.15. It hardly varies what it says: raise kl_coef, or lower learning_rate or num_epochs."
    )
    assert (
        "below 20 nats per response (max_kl 0.5 x the first iteration's entropy 40), got 30."
        in (found(FIRST, after(kl=30.0))["kl"])
    )


def test_a_limit_of_null_and_one_of_a_first_value_of_zero_are_none():
    assert found(FIRST, after(kl=99.0), limits=replace(LIMITS, max_kl=None)) == {}
    never = replace(FIRST, stop_rate=0.0, score_deviation=0.0, entropy=0.0)
    assert found(never, replace(never, iteration=1, kl=99.0)) == {}


def heldout(iteration, value, score=1.0, deviation=0.4):
    return after(iteration, score=score, heldout={"judge": value}, heldout_deviation={"judge": deviation})


def test_a_heldout_score_is_compared_with_its_best_in_deviations_of_the_first_iteration():
    records = [heldout(0, 0.3), heldout(1, 0.7, deviation=0.1)]
    assert found(*records, heldout(2, 0.51, deviation=9.0)) == {}
    message = found(*records, heldout(2, 0.49, score=3.0))["heldout/judge"]
    assert "must stay above 0.5 (max_heldout_drop 0.5 x its deviation 0.4 below its best 0.7 of iteration 1)" in message
    assert "got 0.49, while the trained score went from 1 to 3. The policy exploits what its reward gets" in message
    assert "Both have fallen" in found(*records, heldout(2, 0.49, score=0.5))["heldout/judge"]
    assert found(*records, heldout(2, 0.0), limits=replace(LIMITS, max_heldout_drop=None)) == {}


def test_what_chance_explains_breaks_no_limit():
    few = replace(FIRST, num_responses=32, stop_rate=0.1)
    assert found(few, replace(few, iteration=1, stop_rate=0.0)) == {}
    many = replace(few, num_responses=640)
    message = found(many, replace(many, iteration=1, stop_rate=0.0))["stop"]
    assert "above 0.05 (min_stop_rate 0.5 x the first iteration's value 0.1), got 0." in message
    some = replace(few, num_responses=100)
    message = found(some, replace(some, iteration=1, stop_rate=0.005))["stop"]
    assert "above 0.01 (3 standard errors of 100 responses below the first 0.1), got 0.005." in message
    first, second = (replace(heldout(number, 0.7), num_responses=18) for number in (0, 1))
    assert found(first, replace(second, heldout={"judge": 0.31})) == {}
    message = found(first, replace(second, heldout={"judge": 0.29}))["heldout/judge"]
    assert "above 0.3 (3 standard errors of 18 responses below its best 0.7 of iteration 0), got 0.29" in message


def test_a_heldout_scorer_that_does_not_vary_at_first_is_measured_once_it_does():
    records = [heldout(0, 0.0, deviation=0.0), heldout(1, -0.2, deviation=0.0)]
    assert found(*records) == {}
    assert found(*records, heldout(2, 1.0, deviation=0.5), heldout(3, 0.7)).keys() == {"heldout/judge"}


def test_a_heldout_scorer_that_came_later_is_compared_with_its_own_scores_only():
    assert found(FIRST, heldout(1, 0.7), heldout(2, 0.1)).keys() == {"heldout/judge"}
    assert found(heldout(0, 0.7), FIRST) == {}


def test_a_record_comes_back_from_its_state():
    record = replace(heldout(3, 0.5), causes=["kl"])
    assert IterationRecord(**record.state()) == record


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("max_kl", 0.0, "max_kl must be positive or null, got 0.0"),
        ("min_entropy", 1.0, "min_entropy must be below 1"),
        ("max_length", 0.9, "max_length must be above 1"),
        ("max_heldout_drop", -1.0, "max_heldout_drop must be positive or null"),
    ],
)
def test_a_share_that_cannot_be_one_is_refused(option, value, rule):
    with pytest.raises(ConfigError, match=rule):
        replace(LIMITS, **{option: value})
