import asyncio
import gc
import math
import sys
import threading
import time

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rlhf.errors import ScorerError
from lightning_rlhf.rollout.responses import describe_responses
from lightning_rlhf.rollout.reward_functions import RewardFunctionScorer
from lightning_rlhf.rollout.sampling import finish_responses
from lightning_rlhf.rollout.scoring import ScorePipeline, is_rated


@pytest.fixture
def responses(tiny):
    prompts = tiny.prompts(["cd", "e", "ff"], [{"answer": 1}, {"answer": 2, "hint": "x"}, {"answer": 3}])
    sampled = finish_responses(torch.tensor([[4, 5, 1], [6, 1, 0], [7, 8, 9]]), [1])
    return describe_responses(prompts, sampled, tiny.formatter())


def test_a_reward_function_gets_text_and_columns(tiny, responses):
    seen = {}

    def function(prompts, responses, **columns):
        seen.update(prompts=prompts, responses=responses, **columns)
        return [1, 2.5, np.float32(3)]

    scores = RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)
    assert scores.tolist() == [1.0, 2.5, 3.0]
    assert scores.dtype == torch.float32
    assert seen["prompts"] == ["cd", "e", "ff"]
    assert seen["responses"] == ["ef", "g", "hij"]
    assert seen["answer"] == [1, 2, 3]
    assert seen["hint"] == [None, "x", None]
    assert seen["stopped"] == [True, True, False]
    assert seen["prefilled"] == ["d", "", "f"]
    assert seen["response_tokens"] == [["e", "f", "<stop>"], ["g", "<stop>"], ["h", "i", "j"]]
    assert [turns[0].content for turns in seen["messages"]] == ["cd", "e", "ff"]


def test_a_reward_function_is_called_with_as_many_responses_as_asked_for(tiny, responses):
    sizes = []

    def function(prompts, responses, **columns):
        sizes.append((len(prompts), len(responses), len(columns["answer"])))
        return [len(response) for response in responses]

    scores = RewardFunctionScorer(tiny.function_scorer(function), "mine", batch_size=2).score(responses)
    assert scores.tolist() == [2.0, 1.0, 3.0]
    assert sizes == [(2, 2, 2), (1, 1, 1)]


def test_a_reward_function_may_score_every_token(tiny, responses):
    def function(prompts, responses, *, response_tokens, **columns):
        return [list(range(1, len(tokens) + 1)) for tokens in response_tokens]

    scores = RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)
    assert scores.tolist() == [[1, 2, 3], [1, 2, 0], [1, 2, 3]]


@pytest.mark.parametrize("returned", [torch.tensor([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])])
def test_tensors_and_arrays_are_scores_too(tiny, responses, returned):
    scorer = RewardFunctionScorer(tiny.function_scorer(lambda prompts, responses, **columns: returned), "mine")
    assert scorer.score(responses).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], "one score per response, got 2 for 3"),
        (1.0, "one score per response, got float"),
        ("abc", "one score per response"),
        ([1.0, math.nan, 2.0], "finite number, got nan.*prompt: 'e', response: 'g'"),
        ([1.0, 2.0, math.inf], "finite number, got inf.*prompt: 'ff', response: 'hij'"),
        ([1.0, "2", 2.0], "finite number, got '2'"),
        ([1.0, -1e39, 2.0], r"finite number, got -1e\+39 \(fp32 ends at 3\.4e\+38\).*prompt: 'e', response: 'g'"),
        ([1.0, 2.0, 10**400], "finite number, got 1000000000.*prompt: 'ff', response: 'hij'"),
        ([[1.0, None, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]], "finite number, got None"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]], "each of the 3 response_tokens, got 2.*response: 'ef'"),
        ([[1.0, 2.0, 3.0], 1.0, [1.0, 2.0, 3.0]], "response_tokens, got a single number"),
        ([[1.0, 2.0, 3.0], [1.0, math.nan], [1.0, 2.0, 3.0]], "finite number, got nan"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_the_function(tiny, responses, returned, message):
    scorer = RewardFunctionScorer(tiny.function_scorer(lambda prompts, responses, **columns: returned), "mine")
    with pytest.raises(ScorerError, match=message) as error:
        scorer.score(responses)
    assert "'mine'" in str(error.value)


def test_an_exception_is_an_error_that_names_function_prompt_and_response(tiny, responses):
    def function(prompts, responses, **columns):
        raise KeyError("answer")

    with pytest.raises(ScorerError, match=r"'mine' must return scores, got KeyError: 'answer'.*'cd'.*'ef'"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)


def test_an_error_of_the_functions_own_is_told_as_it_stands(tiny, responses):
    def function(prompts, responses, **columns):
        raise ScorerError("this reward function must get the column 'answer'.")

    with pytest.raises(ScorerError) as error:
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)
    assert str(error.value) == "reward function 'mine': this reward function must get the column 'answer'."


def test_a_field_with_a_reserved_name_is_held_back_with_one_warning(tiny):
    prompts = tiny.prompts(["cd"], [{"responses": ["x"], "stopped": "row"}])
    responses = describe_responses(prompts, finish_responses(torch.tensor([[4, 1]]), [1]), tiny.formatter())
    seen = []

    def function(prompts, responses, *, stopped, **columns):
        seen.append((responses, stopped))
        return [0.0]

    scorer = RewardFunctionScorer(tiny.function_scorer(function), "mine")
    with pytest.warns(UserWarning, match="responses, stopped: the names are reserved"):
        scorer.score(responses)
    scorer.score(responses)
    assert seen == [(["e"], [True])] * 2


def test_of_a_batch_the_response_is_named_at_which_the_function_failed(tiny, responses):
    def function(prompts, responses, *, answer, **columns):
        return [1 / (number - 2) for number in answer]

    with pytest.raises(ScorerError, match=r"ZeroDivisionError: .*prompt: 'e', response: 'g'\.$"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)


def test_a_function_that_would_end_the_process_is_an_error(tiny, responses):
    def function(prompts, responses, **columns):
        sys.exit(0)

    with pytest.raises(ScorerError, match="'mine' must return scores, got SystemExit: 0"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)


def test_sigterm_is_not_taken_for_an_error_of_the_function(tiny, responses):
    def function(prompts, responses, **columns):
        raise SIGTERMException

    with pytest.raises(SIGTERMException):
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)


def test_the_plugin_is_named_with_the_function(tiny, responses):
    function = tiny.function_scorer(lambda prompts, responses, **columns: [1.0])
    with pytest.raises(ScorerError, match=r"^reward function 'mine' of plug-in judge 1\.2 must return one score"):
        RewardFunctionScorer(function, "mine", plugin="judge 1.2").score(responses)


def test_a_function_that_hangs_is_an_error_that_says_where(tiny, responses):
    def function(prompts, responses, **columns):
        time.sleep(30)

    scorer = RewardFunctionScorer(tiny.function_scorer(function), "mine", timeout_s=0.05)
    message = (
        r"'mine' must return within 0.05 s .*test_reward_functions.py:\d+\. .*3 responses.*prompt: 'cd', response: 'ef'"
    )
    with pytest.raises(ScorerError, match=message):
        scorer.score(responses)


def test_none_says_that_the_function_does_not_apply_to_a_response(tiny, responses):
    of_responses = tiny.function_scorer(lambda prompts, responses, **columns: [1.0, None, 2.0])
    scores = RewardFunctionScorer(of_responses, "mine").score(responses)
    assert is_rated(scores).tolist() == [True, False, True]
    assert scores[[0, 2]].tolist() == [1.0, 2.0]
    of_tokens = tiny.function_scorer(lambda prompts, responses, **columns: [[1.0, 1.0, 1.0], None, [2.0, 0.0, 0.0]])
    scores = RewardFunctionScorer(of_tokens, "mine").score(responses)
    assert is_rated(scores).tolist() == [True, False, True]
    assert scores[[0, 2]].sum(-1).tolist() == [3.0, 2.0]


def test_coroutines_are_awaited_side_by_side(tiny, responses):
    begun = []
    both = threading.Barrier(2, timeout=10)  # passed only by two that wait at one time

    def slow(value):
        async def function(prompts, responses, **columns):
            begun.append(value)
            await asyncio.to_thread(both.wait)
            return [value] * len(responses)

        return RewardFunctionScorer(tiny.function_scorer(function), f"slow{value}")

    quick = RewardFunctionScorer(tiny.function_scorer(lambda prompts, responses, **columns: [10.0] * 3), "quick")
    scored = ScorePipeline([slow(1.0), quick, slow(2.0)]).weighted(responses)
    assert begun == [1.0, 2.0]
    assert scored.scores.tolist() == [13.0, 13.0, 13.0]
    assert {name: of_scorer.tolist() for name, of_scorer in scored.by_scorer.items()} == {
        "slow1.0": [1.0] * 3,
        "quick": [10.0] * 3,
        "slow2.0": [2.0] * 3,
    }


def test_all_calls_of_coroutines_share_one_loop_so_that_clients_keep_their_connections(tiny, responses):
    loops = []

    async def function(prompts, responses, **columns):
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(responses)

    scorer = RewardFunctionScorer(tiny.function_scorer(function), "mine", batch_size=1)
    scorer.score(responses)
    scorer.score(responses)
    assert len(loops) == 6
    assert len(set(loops)) == 1


def test_of_a_coroutine_that_fails_function_and_response_are_named(tiny, responses):
    async def function(prompts, responses, *, answer, **columns):
        await asyncio.sleep(0)
        return [1 / (number - 2) for number in answer]

    with pytest.raises(ScorerError, match=r"'mine' must return scores, got ZeroDivisionError: .*'e', response: 'g'\.$"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), KeyError("x")])
def test_no_error_of_a_coroutine_ends_the_loop_of_the_others(tiny, responses, error):
    async def function(prompts, responses, **columns):
        raise error

    with pytest.raises(ScorerError, match=f"got {type(error).__name__}"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine").score(responses)

    async def sound(prompts, responses, **columns):
        return [1.0] * len(responses)

    assert RewardFunctionScorer(tiny.function_scorer(sound), "mine").score(responses).tolist() == [1.0] * 3


def test_a_coroutine_that_hangs_is_cancelled_after_its_time(tiny, responses):
    ended = []

    async def function(prompts, responses, **columns):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(ScorerError, match=r"'mine' must return within 0.05 s .*still being awaited.*'cd'"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine", timeout_s=0.05).score(responses)
    assert ended == [True]


def test_a_coroutine_that_blocks_the_loop_is_given_up(tiny, responses, monkeypatch):
    monkeypatch.setattr("lightning_rlhf.rollout.event_loop._GRACE_S", 0.05)
    release = threading.Event()

    async def function(prompts, responses, **columns):
        release.wait(60)

    with pytest.raises(ScorerError, match=r"must return within 0.05 s .*it blocks the event loop"):
        RewardFunctionScorer(tiny.function_scorer(function), "mine", timeout_s=0.05).score(responses)
    release.set()


def test_coroutines_that_nobody_awaits_any_more_are_closed(tiny, responses):
    """Python would warn of them, and warnings are errors here."""

    async def waiting(prompts, responses, **columns):
        return [0.0] * len(responses)

    def failing(prompts, responses, **columns):
        raise KeyError("x")

    scorers = [RewardFunctionScorer(tiny.function_scorer(each), each.__name__) for each in (waiting, failing)]
    with pytest.raises(ScorerError, match="'failing'"):
        ScorePipeline(scorers).weighted(responses)
    gc.collect()
