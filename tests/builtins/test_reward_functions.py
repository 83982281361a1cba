import copy
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.builtins.reward_functions import (
    FunctionReward,
    LengthReward,
    RegexReward,
    RepetitionReward,
    StopTokenReward,
)
from lightning_rlhf.errors import ConfigError, ScorerError


def scores(reward, responses, **columns):
    return list(reward([""] * len(responses), responses, **columns))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"target": 2}, [-2, -1, 0, -2]),
        ({"minimum": 1, "maximum": 2}, [-1, 0, 0, -2]),
        ({"minimum": 2}, [-2, -1, 0, 0]),
        ({"maximum": 1}, [0, 0, -1, -3]),
        ({}, [0, 1, 2, 4]),
    ],
)
def test_length_scores_the_distance_to_what_is_wanted(arguments, expected):
    responses = ["", "a", "a  b", "a b\nc d"]
    reward = LengthReward(**arguments, scale=2.0, unit="words")
    assert scores(reward, responses) == [score / 2 for score in expected]


def test_length_in_tokens_leaves_the_stop_token_out():
    reward = LengthReward(scale=1.0)
    columns = {"response_tokens": [["a", "b", "</s>"], ["a", "b", "c"]], "stopped": [True, False]}
    assert scores(reward, ["ab", "abc"], **columns) == [2, 3]


def test_length_in_characters_counts_characters():
    assert scores(LengthReward(scale=1.0, unit="characters"), ["你好", ""]) == [2, 0]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"target": 3, "maximum": 4}, "target must stand alone"),
        ({"minimum": 5, "maximum": 4}, "minimum must be at most maximum"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"unit": "lines"}, "unit must be one of tokens"),
    ],
)
def test_length_refuses_arguments_that_contradict(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        LengthReward(**arguments)


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(ScorerError, match="must get the column 'response_tokens', got stopped"):
        scores(LengthReward(), ["a"], stopped=[True])
    with pytest.raises(ScorerError, match=r"one entry per response \(2\), got 1"):
        scores(StopTokenReward(), ["a", "b"], stopped=[True])


def test_stop_token_tells_stopped_responses_from_cut_ones():
    assert scores(StopTokenReward(), ["a", "b"], stopped=[True, False]) == [0.0, -1.0]
    assert scores(StopTokenReward(2.0, 0.5), ["a", "b"], stopped=[True, False]) == [2.0, 0.5]


def test_regex_looks_for_its_pattern_anywhere():
    assert scores(RegexReward(r"(?i)\bthanks\b"), ["Well, Thanks!", "thankless"]) == [1.0, 0.0]
    assert scores(RegexReward("x", match=-2.0, no_match=0.5), ["x", ""]) == [-2.0, 0.5]


def test_regex_checks_the_last_result_against_a_column():
    reward = RegexReward(r"#### (-?[\d,.]+)", column="answer")
    responses = ["#### 3 no, #### 18", "#### 3", "18", "#### 7"]
    answers = ["9 * 2 = 18\n#### 18", "#### 18", "#### 18", "7 "]
    assert scores(reward, responses, answer=answers) == [1.0, 0.0, 0.0, 1.0]


def test_regex_without_a_group_compares_the_match_and_numbers_as_text():
    assert scores(RegexReward(r"\d+", column="gold"), ["so 12", "so 13", "none"], gold=[12, 12, 12]) == [1.0, 0.0, 0.0]
    assert scores(RegexReward(r"a(b)?", column="gold"), ["a"], gold=["ab"]) == [0.0]


def test_regex_refuses_a_broken_pattern():
    with pytest.raises(ConfigError, match="pattern must be a regular expression"):
        RegexReward("(")


def test_repetition_is_the_share_of_repeated_ngrams():
    reward = RepetitionReward(ngram_size=2, unit="words")
    assert scores(reward, ["a b c d", "a b a b", "a a a a a", "a", ""]) == [0.0, 2 / 3 - 1, 1 / 4 - 1, 0.0, 0.0]
    assert scores(RepetitionReward(1, scale=4.0, unit="characters"), ["aabb"]) == [-2.0]


def test_repetition_in_tokens_leaves_the_stop_token_out():
    columns = {"response_tokens": [["a", "a", "</s>"]], "stopped": [True]}
    assert scores(RepetitionReward(1), ["aa"], **columns) == [-0.5]


@pytest.mark.parametrize("arguments", [{"ngram_size": 0}, {"scale": -1.0}, {"unit": "lines"}])
def test_repetition_refuses_arguments_without_meaning(arguments):
    with pytest.raises(ConfigError):
        RepetitionReward(**arguments)


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_scores_do_not_depend_on_the_neighbours_and_inputs_stay_as_they_are(responses):
    rewards = [
        LengthReward(target=3),
        RepetitionReward(),
        RegexReward("a", column="answer"),
        RegexReward("a+"),
        StopTokenReward(),
    ]
    columns = {
        "response_tokens": [[*response, "</s>"] for response in responses],
        "stopped": [len(response) % 2 == 0 for response in responses],
        "answer": responses[::-1],
        "unused": [None] * len(responses),
    }
    before = copy.deepcopy((responses, columns))
    for reward in rewards:
        together = scores(reward, responses, **columns)
        alone = [
            scores(reward, [response], **{name: [values[index]] for name, values in columns.items()})[0]
            for index, response in enumerate(responses)
        ]
        assert together == alone
        assert all(isinstance(score, float) for score in together)
    assert (responses, columns) == before


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "def everything(prompts, responses, **columns):\n"
        "    return [float(len(columns)) for _ in responses]\n"
        "def by_name(prompts, responses, answer, level=None):\n"
        "    return [float(a == r) for a, r in zip(answer, responses)]\n"
        "def positional(a, b, /):\n"
        "    return [1.0 for _ in b]\n"
        "class Group:\n"
        "    @staticmethod\n"
        "    def inner(prompts, responses, *, stopped):\n"
        "        return [float(s) for s in stopped]\n"
        "constant = 3\n",
        encoding="utf-8",
    )
    (tmp_path / "broken_rewards.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_rewards", None)
    sys.modules.pop("broken_rewards", None)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("everything", [3.0, 3.0]), ("by_name", [1.0, 0.0]), ("positional", [1.0, 1.0]), ("Group.inner", [1.0, 0.0])],
)
def test_function_hands_its_function_the_columns_that_it_takes(name, expected):
    columns = {"answer": ["a", "a"], "stopped": [True, False], "other": [0, 0]}
    assert scores(FunctionReward(f"own_rewards:{name}"), ["a", "b"], **columns) == expected


def test_function_takes_a_callable_that_does_not_tell_its_arguments():
    assert FunctionReward("builtins:min")("ba", "ab") == "ab"


@pytest.mark.usefixtures("own_module")
def test_function_names_the_column_that_its_function_needs():
    with pytest.raises(ScorerError, match="function own_rewards:by_name must get the column 'answer', got stopped"):
        scores(FunctionReward("own_rewards:by_name"), ["a"], stopped=[True])


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("own_rewards", "must be 'module:name'"),
        ("own_rewards:", "must be 'module:name'"),
        ("no_such_module_here:f", "must be importable"),
        ("./my/rewards.py:f", "must name a module, not a file, got './my/rewards.py:f'. Did you mean 'my.rewards:f'?"),
        ("broken_rewards:f", r"must be importable, got 'broken_rewards:f' \(ZeroDivisionError"),
        ("own_rewards:everythin", "Did you mean 'everything'"),
        ("own_rewards:zzzz", "got 'zzzz'.$"),
        ("own_rewards:Group", "got the class"),
        ("own_rewards:constant", "must name a function, got 3"),
    ],
)
def test_function_refuses_a_path_that_names_no_function(path, rule):
    with pytest.raises(ConfigError, match=rule):
        FunctionReward(path)
