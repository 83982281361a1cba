import math
import random
import sys
import textwrap

import numpy as np
import pytest
import torch

from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.testing import HOSTILE_TEXTS, RewardFunctionContract
from lightning_rlhf.testing.samples import RESPONSES


class TestLength(RewardFunctionContract):
    component = "length"


class TestLengthInWords(RewardFunctionContract):
    component = "length"
    init_args = {"target": 4, "unit": "words"}


class TestStopToken(RewardFunctionContract):
    component = "stop_token"


class TestRegex(RewardFunctionContract):
    component = "regex"


class TestRegexThatComparesWithAColumn(RewardFunctionContract):
    component = "regex"
    init_args = {"pattern": "#### (.+)", "column": "answer"}
    columns = {"answer": "42"}


class TestRepetition(RewardFunctionContract):
    component = "repetition"


class TestFunction(RewardFunctionContract):
    component = "function"
    init_args = {"path": "politeness_for_tests:politeness"}
    columns = {"word": "thank"}

    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        source = """
            def politeness(prompts, responses, word):
                return [float(response.count(wanted)) for response, wanted in zip(responses, word)]
        """
        (tmp_path / "politeness_for_tests.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(tmp_path)
        yield
        sys.modules.pop("politeness_for_tests", None)


class Scored(RewardFunction):
    """Derived classes say what one response gets."""

    def __call__(self, prompts, responses, **columns):
        return [self.score(response) for response in responses]

    def score(self, response):
        return float(len(response))


class PerToken(Scored):
    def __call__(self, prompts, responses, **columns):
        return [[0.5] * len(tokens) for tokens in columns["response_tokens"]]


class AsTensor(Scored):
    def __call__(self, prompts, responses, **columns):
        return torch.tensor([float(len(response)) for response in responses])


class AsArrays(Scored):
    def __call__(self, prompts, responses, **columns):
        return [np.zeros(len(tokens)) for tokens in columns["response_tokens"]]


@pytest.mark.parametrize("component", [Scored, PerToken, AsTensor, AsArrays])
def test_every_form_of_scores_passes(faults, component):
    assert faults(RewardFunctionContract, component) == {}


class OneTooFew(Scored):
    def __call__(self, prompts, responses, **columns):
        return [1.0] * (len(responses) - 1)


class ANumberForAll(Scored):
    def __call__(self, prompts, responses, **columns):
        return 1.0


class AGenerator(Scored):
    def __call__(self, prompts, responses, **columns):
        return (1.0 for _ in responses)


class NotFinite(Scored):
    def score(self, response):
        return -math.inf if response == "No." else 0.0


class ATextForANumber(Scored):
    def score(self, response):
        return "5"


class NothingForANumber(Scored):
    def score(self, response):
        return None


class OneTokenTooFew(Scored):
    def __call__(self, prompts, responses, **columns):
        return [[0.0] * (len(tokens) - 1) for tokens in columns["response_tokens"]]


class BothForms(Scored):
    def __call__(self, prompts, responses, **columns):
        tokens = columns["response_tokens"]
        return [[0.0] * len(tokens[row]) if row % 2 else 0.0 for row in range(len(responses))]


class Forgetful(Scored):
    def score(self, response):
        return random.random()


class SlowlyGrowing(Scored):
    def __init__(self):
        self.calls = 0

    def score(self, response):
        self.calls += 1
        return float(self.calls // 1000)

    def __call__(self, prompts, responses, **columns):
        self.calls += 1000
        return super().__call__(prompts, responses, **columns)


class OfTheInstance(Scored):
    def __init__(self):
        self.offset = random.random()

    def score(self, response):
        return self.offset


class LessItsMean(Scored):
    def __call__(self, prompts, responses, **columns):
        lengths = [float(len(response)) for response in responses]
        return [length - sum(lengths) / len(lengths) for length in lengths]


class FirstOfItsKind(Scored):
    def __call__(self, prompts, responses, **columns):
        return [float(response not in responses[:row]) for row, response in enumerate(responses)]


class ByItsPlace(Scored):
    def __call__(self, prompts, responses, **columns):
        return [float(row) for row, _ in enumerate(responses)]


class Sorting(Scored):
    def __call__(self, prompts, responses, **columns):
        responses.sort()
        return super().__call__(prompts, responses, **columns)


class Popping(Scored):
    def __call__(self, prompts, responses, **columns):
        for tokens in columns["response_tokens"]:
            tokens.clear()
        return super().__call__(prompts, responses, **columns)


class DividesByLength(Scored):
    def score(self, response):
        return 1 / len(response)


class AsciiOnly(Scored):
    def score(self, response):
        return float(len(response.encode("ascii")))


class ShortOnly(Scored):
    def score(self, response):
        if len(response) > 10_000:
            raise ValueError("too long")
        return 0.0


class HoldsALambda(Scored):
    def __init__(self):
        self.length = lambda response: float(len(response))

    def score(self, response):
        return self.length(response)


class ForgetsWhenPickled(Scored):
    def __init__(self):
        self.weight = 2.0

    def __setstate__(self, state):
        self.weight = 1.0

    def score(self, response):
        return self.weight


DEFECTS = [
    ("test_gives_one_finite_number_per_response", OneTooFew, "must return one score per response, got 6 for 7"),
    ("test_gives_one_finite_number_per_response", ANumberForAll, "must return a list of scores, got float"),
    ("test_gives_one_finite_number_per_response", AGenerator, "must return a list of scores, got generator"),
    ("test_gives_one_finite_number_per_response", NotFinite, "finite numbers, got -inf for the response 'No.'"),
    ("test_gives_one_finite_number_per_response", ATextForANumber, "must return finite numbers, got '5'"),
    ("test_gives_one_finite_number_per_response", NothingForANumber, "must score some responses, got None for all"),
    ("test_scores_tokens_one_by_one_or_not_at_all", OneTokenTooFew, "for each of the 8 response_tokens, got 7"),
    ("test_scores_tokens_one_by_one_or_not_at_all", BothForms, "every response or every token, got both"),
    ("test_gives_the_same_scores_again", Forgetful, "must be deterministic"),
    ("test_gives_the_same_scores_again", SlowlyGrowing, "at its second call"),
    ("test_gives_the_same_scores_again", OfTheInstance, "of another instance"),
    ("test_does_not_depend_on_the_other_responses", LessItsMean, "whatever stands beside it, got 0.0 alone"),
    ("test_does_not_depend_on_the_other_responses", FirstOfItsKind, "got 1.0 alone and 0.0 in a batch"),
    ("test_does_not_depend_on_the_order", ByItsPlace, "must not depend on the order of the batch, got 0.0"),
    ("test_leaves_its_inputs_alone", Sorting, "must not change its inputs, got other responses"),
    ("test_leaves_its_inputs_alone", Popping, "must not change its inputs, got other response_tokens"),
    (
        "test_survives_any_text",
        DividesByLength,
        "division by zero for a batch with the responses ''",
    ),
    ("test_survives_any_text", AsciiOnly, "must score any text, got UnicodeEncodeError"),
    ("test_survives_any_text", ShortOnly, "got ValueError: too long for a batch with the responses 'word word"),
    ("test_can_be_pickled", HoldsALambda, "must be picklable, got"),
    ("test_can_be_pickled", ForgetsWhenPickled, "must score the same after pickling, got [1.0"),
]


@pytest.mark.parametrize(("check", "component", "message"), DEFECTS)
def test_a_broken_reward_function_is_found(faults, check, component, message):
    found = faults(RewardFunctionContract, component)
    assert message in found[check]
    assert f"reward function {component.__name__}" in found[check]


def test_every_check_has_a_reward_function_that_it_finds():
    assert {check for check, _, _ in DEFECTS} == set(RewardFunctionContract.checks())


@pytest.mark.parametrize("component", [HoldsALambda, ForgetsWhenPickled, Popping, AsciiOnly])
def test_a_fault_of_one_kind_is_no_fault_of_another(faults, component):
    assert len(faults(RewardFunctionContract, component)) == 1


class ReadsAColumn(Scored):
    example_columns = {"label": "a"}

    def __call__(self, prompts, responses, *, label, **columns):
        return [float(response == wanted) for response, wanted in zip(responses, label, strict=True)]


def test_columns_come_from_the_test_or_else_from_the_class(faults):
    assert faults(RewardFunctionContract, ReadsAColumn) == {}
    assert faults(RewardFunctionContract, ReadsAColumn, columns={"label": "b"}) == {}
    found = faults(RewardFunctionContract, ReadsAColumn, columns={})
    assert "missing 1 required keyword-only argument: 'label'" in found["test_survives_any_text"]


def test_the_texts_are_what_the_contract_promises():
    joined = "".join(HOSTILE_TEXTS)
    assert "" in HOSTILE_TEXTS
    assert max(map(len, HOSTILE_TEXTS)) >= 20_000
    assert all(sign in joined for sign in ("\U0001f600", "天", "\x00", "\x1b", "</s>", "<|im_end|>"))
    assert len(set(RESPONSES)) == len(RESPONSES) - 1  # one stands twice
