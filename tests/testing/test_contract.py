import subprocess
import sys
import textwrap

import pytest

import lightning_rlhf.testing
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.testing import RewardFunctionContract
from lightning_rlhf.testing.checking import CONTRACTS
from lightning_rlhf.testing.contract import Contract


class Weighted(RewardFunction):
    example = {"weight": 2.0}

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, prompts, responses, **columns):
        return [self.weight for _ in responses]


def made(**attributes):
    return type("TestIt", (RewardFunctionContract,), attributes)().make()


def test_public_names_are_sorted_and_there():
    names = lightning_rlhf.testing.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert all(hasattr(lightning_rlhf.testing, name) for name in names)


def test_every_kind_has_a_contract():
    assert list(CONTRACTS) == list(KINDS)
    assert {contract.__name__ for contract in CONTRACTS.values()} <= set(lightning_rlhf.testing.__all__)


@pytest.mark.parametrize("contract", CONTRACTS.values())
def test_every_test_of_a_contract_says_in_a_line_what_it_is_about(contract):
    checks = list(contract.checks())
    assert len(checks) == len(set(checks)) >= 5
    assert all(getattr(contract, check).__doc__ for check in checks)


def test_contracts_are_no_tests_and_what_derives_from_them_is():
    assert not any(contract.__test__ for contract in (Contract, *CONTRACTS.values()))
    assert type("Named", (RewardFunctionContract,), {"component": "length"}).__test__
    prepared = type("Prepared", (RewardFunctionContract,), {"__test__": False})
    assert not prepared.__test__
    assert type("Derived", (prepared,), {"component": "length"}).__test__


def test_a_component_is_made_with_the_arguments_of_the_test_or_else_of_its_example():
    assert made(component=Weighted).weight == 2.0
    assert made(component=Weighted, init_args={"weight": 3.0}).weight == 3.0
    assert made(component="regex").pattern == "(?i)\\bplease\\b"
    assert made(component="regex", init_args={"pattern": "a"}).pattern == "a"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "TestIt must name its component, got none. Set `component` to the short name or the class"),
        ({"component": "lenght"}, "got 'lenght'. Did you mean length? Install yours (pip install -e .)"),
        ({"component": Weighted, "init_args": {}}, "reward function Weighted must be made with {}, got TypeError"),
        ({"component": int, "init_args": {}}, "reward function int must be a RewardFunction, got a int."),
        ({"component": type("Bad", (Weighted,), {"example": [2]})}, "of reward function Bad must be a mapping of"),
    ],
)
def test_what_cannot_be_made_fails_with_what_to_do(attributes, message):
    with pytest.raises(AssertionError) as caught:
        made(**attributes)
    assert message in str(caught.value)


def test_plain_pytest_runs_what_an_author_names_and_nothing_else(tmp_path):
    """A whole test module of a plug-in, in a process of its own."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["lightning_rlhf.testing.fixtures"]\n')
    module = """
        from lightning_rlhf import RewardFunction
        from lightning_rlhf.testing import (
            DataSourceContract, ModelSourceContract, PromptTemplateContract, RankingConverterContract,
            RewardFunctionContract,
        )

        class Shout(RewardFunction):
            def __call__(self, prompts, responses, **columns):
                return [float("nan" if "😀" in response else 1) for response in responses]

        class TestShout(RewardFunctionContract):
            component = Shout

        class TestLinear(RankingConverterContract):
            component = "linear"

        def test_fixtures(no_network):
            assert no_network == []
    """
    (tmp_path / "test_plugin.py").write_text(textwrap.dedent(module))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-rf", "test_plugin.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    number = len(list(RewardFunctionContract.checks())) + len(list(CONTRACTS["ranking_converter"].checks()))
    assert f"1 failed, {number} passed" in result.stdout, result.stdout + result.stderr
    assert "FAILED test_plugin.py::TestShout::test_survives_any_text" in result.stdout
    assert "reward function Shout must return finite numbers, got nan for the response" in result.stdout
