import pytest
from lightning_rlhf_compat.loading import load_function
from lightning_rlhf_compat.openrlhf import OpenRLHFReward

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.testing import RewardFunctionContract

TOKENS = {"response_tokens": [["a", "b", "</s>"], ["c"]], "stopped": [True, False]}
THREE = "import torch\ndef reward(queries, prompts, labels): return "


class TestContract(RewardFunctionContract):
    component = "openrlhf"
    init_args = {"path": "lightning_rlhf_compat.examples:reward_func", "label_column": "answer"}
    columns = {"answer": "e"}


class TestContractAllAtOnce(RewardFunctionContract):
    component = "openrlhf"
    init_args = {"path": "lightning_rlhf_compat.examples:reward_func", "label_column": "answer", "batch_size": None}
    columns = {"answer": "e"}


@pytest.mark.parametrize(("batch_size", "calls"), [(1, [1, 1]), (2, [2]), (7, [2]), (None, [2])])
def test_it_is_called_by_position_in_batches(write, batch_size, calls):
    path = write(
        """
        calls = []

        def reward(q, p, l, **kwargs):
            calls.append(len(q))
            return [float(query == prompt + label) for query, prompt, label in zip(q, p, l)]

        def seen():
            return calls
        """
    )
    reward = OpenRLHFReward(path, label_column="answer", batch_size=batch_size)
    assert reward(["p", "q"], ["ab", "c"], answer=["ab</s>", "x"], **TOKENS) == [1.0, 0.0]
    assert load_function("rewards.py:seen")() == calls
    assert OpenRLHFReward(path, "answer", append_stop_token=False)(["p"], ["ab"], answer=["ab"]) == [1.0]


def test_labels_are_empty_without_a_label_column_and_left_away_where_two_arguments_are_taken(write):
    path = write("def reward(queries, prompts, labels): return [float(label == '') for label in labels]")
    assert OpenRLHFReward(path)(["p"], ["r"]) == [1.0]
    path = write("def reward(queries, prompts): return [1.0 for _ in queries]", file="two.py")
    assert OpenRLHFReward(path, label_column="answer")(["p"], ["r"], answer=["x"]) == [1.0]


@pytest.mark.parametrize(
    "returned",
    [
        "torch.ones(len(queries))",
        "torch.ones(len(queries), 1)",
        "torch.tensor(1.0)",
        "[1 for _ in queries]",
        '{"rewards": torch.ones(len(queries)), "scores": torch.zeros(len(queries)), "extra_logs": {}}',
        '{"scores": [1.0 for _ in queries]}',
        '{"rewards": None, "scores": [True for _ in queries]}',
    ],
)
def test_what_it_may_return(write, returned):
    assert OpenRLHFReward(write(THREE + returned))(["p", "q"], ["ab", "c"], **TOKENS) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("returned", "rule"),
    [
        ("torch.ones(3)", "one score per response, got 3 for 1 responses. prompt: 'p', response: 'ab'"),
        ("torch.tensor([float('nan') if 'c' in q else 0 for q in queries])", "got nan. prompt: 'q', response: 'c'"),
        ('{"extra_logs": {}}', 'must have the key "rewards" or "scores", got extra_logs. prompt: .p., response: .ab.'),
        ("1 / ('c' not in queries[0])", r"got ZeroDivisionError: .* \(line 2\). prompt: 'q', response: 'c'"),
        ("len(queries, prompts)", "got TypeError: .*prompt: 'p', response: 'ab'"),
    ],
)
def test_what_cannot_be_used_names_function_prompt_and_response(write, returned, rule):
    with pytest.raises(ScorerError, match=rule) as error:
        OpenRLHFReward(write(THREE + returned))(["p", "q"], ["ab", "c"], **TOKENS)
    assert "the OpenRLHF function rewards.py:reward" in str(error.value)


def test_a_label_column_that_the_rows_lack_is_an_error(write):
    with pytest.raises(ScorerError, match="must get the column 'answer', got level"):
        OpenRLHFReward(write(THREE + "[]"), label_column="answer")(["p"], ["r"], level=[1])


def test_a_batch_size_below_one_is_refused(write):
    with pytest.raises(ConfigError, match="batch_size must be at least 1 or null, got 0"):
        OpenRLHFReward(write(THREE + "[]"), batch_size=0)
