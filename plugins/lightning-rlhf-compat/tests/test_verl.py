import copy

import pytest
from lightning_rlhf_compat.verl import VerlReward

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.testing import RewardFunctionContract

ROWS = {
    "data_source": ["sums", "poems"],
    "reward_model": [{"style": "rule", "ground_truth": "2"}, {"style": "rule", "ground_truth": "rose"}],
    "extra_info": [{"index": 0}, {"index": 1}],
}
FOUR = "def reward(data_source, solution_str, ground_truth, extra_info=None): return "


class TestContract(RewardFunctionContract):
    component = "verl"
    init_args = {"path": "lightning_rlhf_compat.examples:compute_score"}
    columns = {"reward_model": {"ground_truth": "."}}


class TestContractWithoutColumns(RewardFunctionContract):
    component = "verl"


@pytest.mark.parametrize("form", ["def", "async def"])
def test_each_response_is_scored_with_what_its_row_holds(write, form):
    path = write(
        f"""
        {form} reward(data_source, solution_str, ground_truth, extra_info=None):
            seen = (data_source, solution_str, ground_truth, extra_info)
            extra_info["num_turns"] = 1
            return float(seen[:3] == ("sums", "2", "2")) + (extra_info["index"] == 1)
        """
    )
    rows = copy.deepcopy(ROWS)
    assert VerlReward(path)(["p", "q"], ["2", "rose"], **rows) == [1.0, 1.0]
    assert rows == ROWS


def test_a_function_gets_what_it_takes(write):
    assert VerlReward(write("def reward(solution_str): return len(solution_str)"))(["p"], ["abc"]) == [3.0]
    path = write(
        """
        def reward(**kwargs):
            return kwargs == dict(solution_str="r", data_source="mine", ground_truth="x", extra_info={}, level=2)
        """
    )
    reward = VerlReward(path, ground_truth_column="answer", data_source="mine", keywords={"level": 2})
    assert reward(["p"], ["r"], answer=["x"]) == [1.0]


def test_a_function_of_lists_is_called_once(write):
    path = write(
        """
        def reward(data_sources, solution_strs, ground_truths, extra_infos):
            assert extra_infos == [{"index": 0}, {"index": 1}]
            return [{"score": s == g} for s, g in zip(solution_strs, ground_truths)]
        """
    )
    assert VerlReward(path)(["p", "q"], ["2", "violet"], **ROWS) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("returned", "rule"),
    [
        (
            "{'acc': 1}",
            r"""the dict of the verl function rewards.py:reward must have the key "score", got acc. p.*'p'""",
        ),
        ("float('nan') if data_source == 'poems' else 1", "finite number, got nan. prompt: 'q', response: 'rose'"),
        ("None", "finite number, got None. prompt: 'p', response: '2'"),
        ("int(ground_truth)", r"got ValueError: .*'rose' \(line 1\). prompt: 'q', response: 'rose'"),
    ],
)
@pytest.mark.parametrize("form", ["", "async "])
def test_what_cannot_be_used_names_function_prompt_and_response(write, form, returned, rule):
    with pytest.raises(ScorerError, match=rule) as error:
        VerlReward(write(form + FOUR + returned))(["p", "q"], ["2", "rose"], **ROWS)
    assert "rewards.py:reward" in str(error.value)


def test_a_wrong_number_of_scores_is_an_error(write):
    path = write("def reward(solution_strs): return [1.0]")
    with pytest.raises(ScorerError, match=r"one score per response, got 1 for 2 responses. prompt: 'p', response: 'a'"):
        VerlReward(path)(["p", "q"], ["a", "b"])


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({}, "must get the column 'reward_model', got no column"),
        ({"reward_model": [{"style": "rule"}]}, "must hold 'reward_model.ground_truth' .*, got {'style': 'rule'}.*'p'"),
        ({"reward_model": [None]}, "must hold 'reward_model.ground_truth' .*, got None"),
    ],
)
def test_rows_without_a_ground_truth_are_an_error(write, columns, rule):
    with pytest.raises(ScorerError, match=rule):
        VerlReward(write(FOUR + "0"))(["p"], ["r"], **columns)


def test_arguments_that_verl_takes_from_elsewhere_must_stand_in_keywords(write):
    path = write("def reward(solution_str, reward_router_address, **kwargs): return 1")
    with pytest.raises(ConfigError, match=r"keywords must hold .*got no reward_router_address"):
        VerlReward(path)
    assert VerlReward(path, "a", keywords={"reward_router_address": "x"})(["p"], ["r"], a=[""]) == [1.0]
