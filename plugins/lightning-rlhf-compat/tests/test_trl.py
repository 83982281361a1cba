import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from lightning_rlhf_compat.trl import TRLReward

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.records import Message
from lightning_rlhf.testing import RewardFunctionContract

PLAIN = """
    def reward(prompts, completions, **kwargs):
        return [float(len(c)) for c in completions]
"""


class TestContract(RewardFunctionContract):
    component = "trl"
    init_args = {"path": "lightning_rlhf_compat.examples:brevity"}


def test_strings_and_columns_reach_the_function_by_name(write):
    path = write(
        """
        def reward(completions, prompts, answer, level=1, **kwargs):
            assert sorted(kwargs) == ["log_extra", "log_metric", "other"], kwargs
            return [float(f"{p}{a}{level}" == c) for p, c, a in zip(prompts, completions, answer)]
        """
    )
    columns = {"answer": ["x", "y"], "other": [0, 0], "completion": ["", ""], "completion_ids": [0, 0]}
    reserved = {"stopped": [True, True], "messages": [(), ()], "response_tokens": [[], []]}
    reward = TRLReward(path, keywords={"level": 5})
    assert reward(["p", "q"], ["px5", "-"], **columns, **reserved) == [1.0, 0.0]


def test_a_function_of_old_releases_gets_what_it_names_alone(write):
    path = write("def reward(completions): return [1 for c in completions]")
    assert TRLReward(path)(["p"], ["r"], answer=["x"]) == [1.0]


def test_conversational_functions_get_lists_of_messages(write):
    path = write(
        """
        def reward(prompts, completions, **kwargs):
            assert prompts[0] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
            assert completions[0] == [{"role": "assistant", "content": "r"}]
            return [1.0]
        """
    )
    messages = (Message("system", "s"), Message("user", "u"))
    assert TRLReward(path, conversational=True)(["su"], ["r"], messages=[messages]) == [1.0]


def test_async_functions_and_objects_are_awaited(write):
    source = """
        import asyncio

        async def reward(completions, **kwargs):
            await asyncio.sleep(0)
            return [2.0 for _ in completions]

        class Judge:
            async def __call__(self, completions, **kwargs):
                return await reward(completions)

        judge = Judge()
    """
    assert TRLReward(write(source))(["p"], ["r"]) == [2.0]
    assert TRLReward(write(source, name="judge"))(["p"], ["r"]) == [2.0]


def test_none_does_not_apply(write):
    path = write("def reward(completions, **kwargs): return [None if c == 'x' else 1.0 for c in completions]")
    assert TRLReward(path)(["p", "p"], ["x", "y"]) == [0.0, 1.0]
    assert TRLReward(path, none_score=-3.0)(["p", "p"], ["x", "y"]) == [-3.0, 1.0]


def test_completion_ids_end_with_the_stop_token_where_the_response_stopped(write, tokenizer):
    path = write("def reward(completion_ids, **kwargs): return [float(len(ids)) for ids in completion_ids]")
    assert TRLReward(path, tokenizer=tokenizer)(["p", "p"], ["abc", "abc"], stopped=[True, False]) == [4.0, 3.0]
    with pytest.raises(ConfigError, match=r"tokenizer must be given for the TRL function .* needs completion_ids"):
        TRLReward(path)
    with pytest.raises(ConfigError, match="must be a directory or hub id that holds a tokenizer, got 'nowhere'"):
        TRLReward(path, tokenizer="nowhere")


def test_what_only_trls_trainers_have_is_refused_where_the_function_needs_it(write):
    with pytest.raises(ConfigError, match="must do without trainer_state"):
        TRLReward(write("def reward(completions, trainer_state, **kwargs): return []"))
    path = write("def reward(completions, trainer_state=None): return [0.0]", name="reward", file="other.py")
    assert TRLReward(path)(["p"], ["r"]) == [0.0]


def test_what_a_function_logs_is_left_out_with_a_warning(write):
    path = write(
        """
        def reward(completions, log_extra, log_metric, **kwargs):
            log_extra("found", completions)
            log_metric("accuracy", 1.0)
            return [1.0 for _ in completions]
        """
    )
    with pytest.warns(UserWarning, match=r"called log_(extra|metric)\('\w+', …\), which is not recorded") as caught:
        assert TRLReward(path)(["p"], ["r"]) == [1.0]
    assert len(caught) == 2


def test_keywords_that_the_function_does_not_take_are_refused(write):
    with pytest.raises(ConfigError, match=r"keywords must name arguments of .*, got leven; it takes completions"):
        TRLReward(write("def reward(completions, level=1): return []"), keywords={"leven": 2})


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("return [1.0]", "must return one score per response, got 1 for 2 responses. prompt: 'p1', response: 'r1'"),
        ("return None", "one score per response, got None for 2 responses"),
        ("return 'ab'", "one score per response, got 'ab' for 2 responses"),
        ("return [1.0, float('nan')]", "must be a finite number, got nan. prompt: 'p2', response: 'r2'"),
        ("return [1.0, float('inf')]", "must be a finite number, got inf. prompt: 'p2', response: 'r2'"),
        ("return ['1', 1.0]", "must be a finite number, got '1'. prompt: 'p1', response: 'r1'"),
        ("return [1.0, [1.0, 2.0]]", r"must be a finite number, got \[1.0, 2.0\]. prompt: 'p2'"),
        (
            "raise KeyError('gold')",
            r"must return scores, got KeyError: 'gold' \(line 1\). prompt: 'p1', response: 'r1'",
        ),
    ],
)
@pytest.mark.parametrize("form", ["def", "async def"])
def test_what_cannot_be_used_names_function_prompt_and_response(write, form, body, rule):
    reward = TRLReward(write(f"{form} reward(prompts, completions, **kwargs): {body}"))
    with pytest.raises(ScorerError, match=rule) as error:
        reward(["p1", "p2"], ["r1", "r2"])
    assert "the TRL function rewards.py:reward" in str(error.value)


@pytest.mark.parametrize(
    ("conversational", "expression", "advice"),
    [
        (False, "completion[0]['content']", "Set conversational to true if it is written for messages. prompt: 'p'"),
        (True, "completion.strip()", "Set conversational to false if it is written for strings. prompt: 'p'"),
        (True, "re.search('a', completion)", "Set conversational to false"),
        (True, "{}['list']", r"KeyError: 'list' \(line 3\). prompt: 'p'"),
    ],
)
def test_a_function_for_the_other_form_is_told_so(write, conversational, expression, advice):
    path = write(
        f"import re\ndef reward(completions, **kwargs):\n    return [{expression} for completion in completions]"
    )
    with pytest.raises(ScorerError, match=advice):
        TRLReward(path, conversational=conversational)(["p"], ["r"], messages=[(Message("user", "p"),)])


def test_a_missing_column_is_named_with_those_there_are(write):
    reward = TRLReward(write("def reward(completions, solution): return []"))
    with pytest.raises(ScorerError, match=r"rewards.py:reward must get the column 'solution', got answer, stopped"):
        reward(["p"], ["r"], answer=["x"], stopped=[True])


def test_a_function_from_a_file_survives_a_pickle_into_another_process(write, tokenizer):
    reward = TRLReward(write(PLAIN), none_score=2.0, tokenizer=tokenizer)
    Path("reward.pickle").write_bytes(pickle.dumps(reward))
    code = (
        "import pickle; reward = pickle.load(open('reward.pickle', 'rb'));"
        "print(reward(['p'], ['abc']), reward.none_score, type(reward._tokenizer).__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[:2] == ["[3.0]", "2.0"]
    assert found.stdout.split()[2] != "NoneType"
