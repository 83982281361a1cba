import math

import numpy as np
import pytest
import torch

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.rollout.responses import describe_responses
from lightning_rlhf.rollout.sampling import finish_responses
from lightning_rlhf.rollout.scoring import (
    RewardFunctionScorer,
    ScorePipeline,
    Scorer,
    combine,
    converted_scores,
    with_total,
)


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
        ([1.0, None, 2.0], "finite number, got None"),
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


class Constant(Scorer):
    def __init__(self, name, scores):
        super().__init__(name)
        self.scores = torch.tensor(scores)

    def score(self, responses):
        return self.scores


def test_the_score_is_the_weighted_sum_and_each_scorer_keeps_its_own(responses):
    pipeline = ScorePipeline([Constant("a", [1.0, 2.0, 3.0]), Constant("b", [1.0, 0.0, -1.0])], weights=[2.0, -1.0])
    scores = pipeline.weighted(responses)
    assert scores.scores.tolist() == [1.0, 4.0, 7.0]
    assert {name: own.tolist() for name, own in scores.by_scorer.items()} == {"a": [1, 2, 3], "b": [1, 0, -1]}


def test_beside_a_scorer_of_tokens_other_scores_stand_at_the_last_token(responses):
    per_token = [[0.5, 0.0, 1.0], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]
    scores = ScorePipeline([Constant("a", [1.0, 2.0, 3.0]), Constant("b", per_token)]).weighted(responses)
    assert scores.scores.tolist() == [[0.5, 0.0, 2.0], [0.25, 2.0, 0.0], [0.0, 0.0, 3.0]]
    assert scores.totals.tolist() == [2.5, 2.25, 3.0]
    assert scores.by_scorer["b"].tolist() == [1.5, 0.25, 0.0]


def test_scorers_of_one_name_get_numbers(responses):
    scores = ScorePipeline([Constant("a", [1.0, 2.0, 3.0]), Constant("a", [0.0, 0.0, 0.0])]).weighted(responses)
    assert list(scores.by_scorer) == ["a", "a_2"]


def test_weights_that_do_not_fit_and_no_scorer_are_errors():
    with pytest.raises(ConfigError, match="one weight per scorer, got 2 for 1: a"):
        ScorePipeline([Constant("a", [0.0])], weights=[1.0, 1.0])
    with pytest.raises(ConfigError, match="at least one scorer"):
        ScorePipeline([])


def test_combine_leaves_one_score_per_response_where_none_scores_tokens(responses):
    assert combine([torch.ones(3)], [0.5], responses.completion_mask).tolist() == [0.5, 0.5, 0.5]


def test_another_total_moves_the_last_token_alone(responses):
    scores = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    moved = with_total(scores, torch.tensor([5.0, 2.0, -1.0]), responses.completion_mask)
    assert moved.tolist() == [[1.0, 0.0, 4.0], [1.0, 1.0, 0.0], [0.0, 0.0, -1.0]]


class HalfPlaces(RankingConverter):
    def __call__(self, ranks):
        assert ranks.shape[0] == 1
        return -ranks[0] / 2


def test_converted_rewards_replace_the_scores_of_each_prompts_responses():
    scores = torch.tensor([3.0, 9.0, 3.0, -1.0, -2.0, -3.0])
    assert converted_scores(scores, HalfPlaces(), 3).tolist() == [-0.5, 0.0, -0.5, 0.0, -0.5, -1.0]


@pytest.mark.parametrize("returned", [[0.0, math.nan], [0.0], [[0.0, 1.0]]])
def test_a_converter_that_returns_something_else_is_an_error(returned):
    class Broken(RankingConverter):
        def __call__(self, ranks):
            return np.array(returned)

    with pytest.raises(ScorerError, match="Broken must return 2 finite rewards"):
        converted_scores(torch.tensor([1.0, 2.0]), Broken(), 2)
