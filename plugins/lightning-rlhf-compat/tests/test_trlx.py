import pytest
from lightning_rlhf_compat.trlx import TRLXReward

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf.testing import RewardFunctionContract

TOKENS = {"response_tokens": [["a", "b", "</s>"], ["c"]], "stopped": [True, False]}


class TestContract(RewardFunctionContract):
    component = "trlx"
    init_args = {"path": "lightning_rlhf_compat.examples:vowels"}


class TestTokenContract(RewardFunctionContract):
    component = "trlx"
    init_args = {"path": "lightning_rlhf_compat.examples:vowel_tokens"}


def test_samples_join_prompt_and_output_with_the_stop_token(write):
    path = write(
        """
        def reward(samples, prompts, outputs, level, **kwargs):
            assert kwargs == {}
            return [float(len("|".join(parts))) + row for row, *parts in zip(level, samples, prompts, outputs)]
        """
    )
    assert TRLXReward(path)(["p", "q"], ["ab", "c"], level=[0, 100], **TOKENS) == [16.0, 106.0]
    reward = TRLXReward(path, append_stop_token=False)
    assert reward(["p", "q"], ["ab", "c"], level=[0, 100], **TOKENS) == [8.0, 106.0]


def test_the_tokenizer_is_handed_over_under_both_names(write, tokenizer):
    path = write(
        """
        def reward(samples, prompts, outputs, tokenizer, **kwargs):
            assert kwargs["model_tok"] is tokenizer
            return [float(len(tokenizer(output, add_special_tokens=False).input_ids)) for output in outputs]
        """
    )
    assert TRLXReward(path, tokenizer=tokenizer)(["p", "q"], ["ab", "c"], **TOKENS) == [3.0, 1.0]
    with pytest.raises(ConfigError, match=r"tokenizer must be given for the trlX function .* needs tokenizer"):
        TRLXReward(path)


def test_a_first_argument_with_a_name_of_its_own_gets_the_samples(write):
    assert TRLXReward(write("def reward(texts): return [float(len(t)) for t in texts]"))(["pp"], ["r"]) == [3.0]
    path = write("reward = lambda texts, **kwargs: [float(len(t)) for t in texts]", file="one_more.py")
    assert TRLXReward(path)(["pp"], ["r"], texts=["row"], level=[1]) == [3.0]


@pytest.mark.parametrize("made", ["torch.tensor([1.0, 2.0])", "[torch.tensor(1.0), torch.tensor(2)]", "[[1], [2]]"])
def test_tensors_and_column_vectors_are_scores_of_responses(write, made):
    path = write(f"import torch\ndef reward(samples, **kwargs): return {made}")
    assert TRLXReward(path)(["p", "q"], ["ab", "c"], **TOKENS) == [1.0, 2.0]


def test_lists_are_scores_of_tokens(write):
    path = write("import torch\ndef reward(samples, **kwargs): return [torch.tensor([1, 2, 3]), [4]]")
    assert TRLXReward(path)(["p", "q"], ["ab", "c"], **TOKENS) == [[1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("scores", "spread"),
    [
        ([1, 2, 4, 8], [1, 2, 12]),
        ([1, 2, 4, 8, 16, 32], [3, 12, 48]),
        ([5, 7], [0, 5, 7]),
        ([9], [0, 0, 9]),
        ([], [0, 0, 0]),
    ],
)
def test_other_numbers_of_token_scores_are_spread_with_the_last_at_the_last_token(write, scores, spread):
    path = write(f"def reward(samples, **kwargs): return [{scores}, [1, 1]]")
    assert TRLXReward(path)(["p", "q"], ["ab", "c"], **TOKENS) == [spread, [2]]


def test_token_scores_must_be_finite(write):
    path = write("def reward(samples, **kwargs): return [[1.0, 2.0, 3.0], [float('nan'), 1.0]]")
    with pytest.raises(ScorerError, match=r"trlX function .* finite number, got nan. prompt: 'q', response: 'c'"):
        TRLXReward(path)(["p", "q"], ["ab", "c"], **TOKENS)


def test_scores_of_both_kinds_are_refused(write):
    path = write("def reward(samples, **kwargs): return [[1.0, 2.0, 3.0], 1.0]")
    with pytest.raises(ScorerError, match=r"finite number, got .1.0, 2.0, 3.0.*prompt: 'p', response: 'ab'"):
        TRLXReward(path)(["p", "q"], ["ab", "c"], **TOKENS)
