import math

import numpy as np
import pytest
import torch

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.plugin_system.interfaces import RankingConverter
from lightning_rlhf.rollout.responses import describe_responses
from lightning_rlhf.rollout.sampling import finish_responses
from lightning_rlhf.rollout.scoring import (
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


def test_a_scorer_that_does_not_apply_adds_nothing_to_the_sum(responses):
    nan = math.nan
    of_some = Constant("a", [1.0, nan, 3.0])
    of_all = Constant("b", [10.0, 20.0, 30.0])
    scored = ScorePipeline([of_some, of_all], weights=[2.0, 1.0]).weighted(responses)
    assert scored.scores.tolist() == [12.0, 20.0, 36.0]
    assert scored.by_scorer["a"].isnan().tolist() == [False, True, False]
    of_tokens = Constant("c", [[1.0, 0.0, 0.5], [nan, nan, nan], [0.0, 0.0, 0.0]])
    scored = ScorePipeline([of_some, of_all, of_tokens]).weighted(responses)
    assert scored.scores.tolist() == [[1.0, 0.0, 11.5], [0.0, 20.0, 0.0], [0.0, 0.0, 33.0]]
    assert scored.by_scorer["c"].isnan().tolist() == [False, True, False]


def test_a_response_that_no_scorer_applies_to_is_an_error_that_names_it(responses):
    scorers = [Constant("a", [1.0, math.nan, 3.0]), Constant("b", [math.nan, math.nan, 3.0])]
    with pytest.raises(ScorerError, match=r"at least one scorer, got None from a, b\..*prompt: 'e', response: 'g'"):
        ScorePipeline(scorers).weighted(responses)


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
