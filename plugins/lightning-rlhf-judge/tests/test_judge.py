import asyncio
import gc
import json
import os
import pickle
import random
import signal
import sqlite3
import threading
import time

import pytest
from lightning_rlhf_judge.scoring import ScoreJudge

from lightning_rlhf import Message
from lightning_rlhf.errors import ConfigError, ScorerError


@pytest.fixture
def made(judge, tmp_path):
    """Makes a judge that asks the server of the test."""

    def make(**arguments):
        defaults = {"cache": str(tmp_path / "verdicts.sqlite"), "max_wait_s": 0.05, "timeout_s": 5.0}
        return ScoreJudge("m", judge.base_url, **{**defaults, **arguments})

    return make


def question(request):
    return request["messages"][0]["content"]


def test_every_response_is_asked_about_at_temperature_zero(made, judge):
    made()(["p", "p"], ["one", "two"])
    assert sorted(question(request).count("two") for request in judge.requests) == [0, 1]
    assert all(
        (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0, 512) for request in judge.requests
    )


def test_scores_stand_where_their_responses_stand(made, judge):
    judge.script = [lambda body: (time.sleep(0.05 * random.random()), f"Score: {question(body).count('x')}")[1]]
    responses = ["x" * number for number in range(1, 11)]
    template = "{response}"
    scores = made(template=template)(["p"] * 10, responses)
    assert scores == pytest.approx([number / 9 for number in range(10)])


def test_fields_of_the_body_are_added_and_null_takes_one_out(made, judge):
    made(body={"seed": 3, "temperature": None})(["p"], ["r"])
    assert judge.requests[0]["seed"] == 3
    assert "temperature" not in judge.requests[0]


def test_the_dialogue_is_shown_as_turns(made, judge):
    dialogue = (Message("system", "Be kind."), Message("user", "Hello {you}"))
    made(template="{dialogue}|{prompt}|{response}|{topic}")(
        ["<rendered>"], ["Hi {prompt}"], messages=[dialogue], topic=["greetings"]
    )
    assert question(judge.requests[0]) == "System: Be kind.\nUser: Hello {you}|<rendered>|Hi {prompt}|greetings"


def test_a_column_that_the_row_lacks_stops_with_its_name(made):
    with pytest.raises(ScorerError, match=r"must get the column 'topic', got dialogue.*for the prompt 'p'"):
        made(template="{response}{topic}")(["p"], ["r"], topic=[None])


def test_no_more_questions_are_open_at_a_time_than_allowed(made, judge):
    judge.pause_s = 0.05
    made(concurrency=3)(["p"] * 9, [str(number) for number in range(9)])
    assert judge.most_at_a_time == 3


def test_equal_responses_are_asked_about_once(made, judge):
    scores = made(cache=None)(["p"] * 3, ["same", "same", "other"])
    assert len(judge.requests) == 2
    assert scores[0] == scores[1]


def test_what_was_asked_before_comes_out_of_the_cache(made, judge):
    first = made()(["p", "p"], ["one", "two"])
    again = made()
    assert again(["p", "p"], ["two", "one"]) == first[::-1]
    assert len(judge.requests) == 2
    assert (again.usage.num_requests, again.usage.num_cached) == (0, 2)


@pytest.mark.parametrize("other", [{"body": {"seed": 1}}, {"template": "{response}?"}, {"max_verdict_length": 9}])
def test_another_request_is_another_question(made, judge, other):
    made()(["p"], ["one"])
    made(**other)(["p"], ["one"])
    assert len(judge.requests) == 2


def test_without_a_cache_everything_is_asked_again(made, judge):
    function = made(cache=None)
    function(["p"], ["one"])
    function(["p"], ["one"])
    assert len(judge.requests) == 2


def test_verdicts_that_were_given_outlive_a_failure(made, judge):
    judge.script = ["Score: 5", {"status": 400, "body": "no"}]
    with pytest.raises(ScorerError):
        made(concurrency=1)(["p", "p"], ["one", "two"])
    judge.script = ["Score: 5"]
    del judge.requests[:]
    made()(["p", "p"], ["one", "two"])
    assert len(judge.requests) == 1


def test_a_cache_that_is_no_database_stops_with_its_path(made, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(ScorerError, match=r"must be a writable SQLite file, got '.*notes.txt'"):
        made(cache=str(path))(["p"], ["r"])


def test_a_verdict_that_cannot_be_read_is_answered_with_a_reminder(made, judge):
    judge.script = ["Wonderful!", "Score: 10"]
    assert made()(["p"], ["r"]) == [1.0]
    roles = [(message["role"], message["content"]) for message in judge.requests[1]["messages"]]
    assert roles[0] == ("user", question(judge.requests[0]))
    assert roles[1:] == [("assistant", "Wonderful!"), ("user", made().reminder)]


def test_a_judge_that_talks_nonsense_stops_the_run_with_prompt_and_verdict(made, judge):
    judge.script = ["bananas"]
    with pytest.raises(ScorerError, match=r"got 'bananas' when asked 3 times.*prompt: 'why\?', response: 'because'"):
        made(max_attempts=3)(["why?"], ["because"])
    assert len(judge.requests) == 3
    # Each reminder follows the first question and the last verdict: the talk does not grow.
    assert [len(request["messages"]) for request in judge.requests] == [1, 3, 3]


def test_a_verdict_that_was_cut_off_says_what_to_raise(made, judge):
    message = {"message": {"content": "Let me think about"}, "finish_reason": "length"}
    judge.script = [{"body": {"choices": [message]}}]
    with pytest.raises(ScorerError, match="raise max_verdict_length"):
        made(max_attempts=1)(["p"], ["r"])


def test_nonsense_is_not_kept(made, judge):
    judge.script = ["bananas"]
    with pytest.raises(ScorerError):
        made(max_attempts=1)(["p"], ["r"])
    judge.script = ["Score: 1"]
    assert made()(["p"], ["r"]) == [0.0]


def test_a_failure_ends_the_other_questions_soon(made, judge):
    judge.script = [{"status": 403, "body": "no"}, {"status": 500, "body": "later"}]
    start = time.monotonic()
    with pytest.raises(ScorerError, match="status 403"):
        made(concurrency=4, max_attempts=50, max_wait_s=60.0)(["p"] * 40, [str(number) for number in range(40)])
    assert time.monotonic() - start < 5
    assert len(judge.requests) < 12


def test_a_loop_that_runs_already_is_no_hindrance(made, judge):
    judge.script = ["Score: 10"]

    async def cell():
        return made()(["p"], ["r"])

    assert asyncio.run(cell()) == [1.0]


def test_a_stalled_question_does_not_hold_up_a_failure(made, judge):
    judge.script = ["stall", {"status": 403, "body": "no"}]
    start = time.monotonic()
    with pytest.raises(ScorerError, match="status 403"):
        made(concurrency=2, timeout_s=60.0)(["p", "p"], ["one", "two"])
    assert time.monotonic() - start < 5


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, even where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_does_not_wait_for_a_stalled_judge(made, judge):
    judge.script = ["stall"]
    function = made(timeout_s=60.0)
    interruption = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    interruption.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        function(["p"], ["r"])
    interruption.join()
    assert time.monotonic() - start < 5


def test_an_unreachable_judge_never_scores(made, judge):
    function = made(max_attempts=2, timeout_s=0.2)
    judge.script = ["stall"]
    with pytest.raises(ScorerError, match="must be reachable"):
        function(["p"], ["r"])


def test_tokens_and_money_are_counted(made, judge, capsys):
    judge.script = ["bananas", "Score: 3", "Score: 3", {"body": {"choices": [{"message": {"content": "Score: 3"}}]}}]
    gc.collect()  # judges of other tests report now
    capsys.readouterr()
    function = made(prompt_price=2.0, verdict_price=50.0, concurrency=1)
    function(["p"] * 3, ["one", "two", "three"])
    usage = function.usage
    assert (usage.num_requests, usage.prompt_tokens, usage.verdict_tokens, usage.num_uncounted) == (4, 300, 30, 1)
    assert usage.cost == pytest.approx((300 * 2 + 30 * 50) / 1e6)
    function(["p"], ["one"])
    del function
    assert capsys.readouterr().err == (
        "judge m: 4 requests, 1 questions answered by the cache, 300 prompt tokens, 30 verdict tokens, "
        "1 requests of unknown size, cost 0.0021\n"
    )


def test_a_run_out_of_the_cache_is_reported_too(made, capsys):
    made()(["p"], ["r"])
    gc.collect()
    capsys.readouterr()
    made()(["p"], ["r"])
    assert capsys.readouterr().err.startswith("judge m: 0 requests, 1 questions answered by the cache")


def test_a_judge_that_answered_nothing_reports_nothing(made, judge, capsys):
    judge.script = [{"status": 400, "body": "no"}]
    gc.collect()
    capsys.readouterr()
    with pytest.raises(ScorerError):
        made()(["p"], ["r"])
    gc.collect()
    assert capsys.readouterr().err == ""


def test_without_prices_there_is_no_cost(made):
    function = made()
    function(["p"], ["r"])
    assert function.usage.cost is None
    assert "cost" not in str(function.usage)


def test_an_empty_batch_asks_nothing(made, judge):
    assert made()([], []) == []
    assert judge.requests == []


def test_a_judge_that_has_asked_can_be_pickled_and_goes_on_counting(made):
    function = made()
    function(["p"], ["r"])
    copied = pickle.loads(pickle.dumps(function))
    assert copied(["p"], ["r"]) == function(["p"], ["r"])
    assert copied.usage.num_requests == 1


def test_the_global_generator_is_left_alone(made, judge):
    judge.script = [{"status": 500, "body": ""}, "Score: 3"]
    random.seed(1)
    expected = random.Random(1).random()
    made()(["p"], ["r"])
    assert random.random() == expected


def test_the_cache_holds_verdicts_and_no_prompts(made, tmp_path):
    made()(["a private prompt"], ["a private response"])
    rows = sqlite3.connect(tmp_path / "verdicts.sqlite").execute("SELECT * FROM verdicts").fetchall()
    assert len(rows) == 1
    assert "private" not in json.dumps(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"max_verdict_length": 0}, "max_verdict_length must be at least 1"),
        ({"body": {"stream": True}}, "body must leave messages, stream and n alone"),
        ({"template": "Rate it."}, r"template must hold \{response\}"),
        ({"template": "{response} {"}, "template must have closed braces"),
        ({"template": "{response.upper}"}, r"plain names in braces, got \{response.upper\}"),
        ({"template": "{response} as {}"}, "plain names in braces"),
        ({"template": "{response!r}"}, "plain names in braces"),
        ({"minimum": 5.0, "maximum": 5.0}, "minimum must be below maximum"),
        ({"maximum": float("inf")}, "minimum must be below maximum"),
    ],
)
def test_arguments_that_cannot_work_are_refused(made, arguments, message):
    with pytest.raises(ConfigError, match=message):
        made(**arguments)


def test_a_judge_needs_a_name():
    with pytest.raises(ConfigError, match="model must be the judge's name"):
        ScoreJudge(" ")
