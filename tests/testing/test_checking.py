import subprocess
import sys

import pytest

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.testing.checking import check_components, iterate_checks
from lightning_rlhf.version import __version__

HEAD = "from lightning_rlhf import Component, DataSource, RewardFunction, Text, hookimpl\n"


def reward_plugin(body, name="shout", init=""):
    """The source of a plug-in with one reward function."""
    return f"""
{HEAD}
class Shout(RewardFunction):
    {init}
    def __call__(self, prompts, responses, **columns):
        {body}

@hookimpl
def rlhf_reward_functions():
    return [Component({name!r}, Shout)]
"""


def only(results):
    assert len(results) == 1
    return results[0]


def test_built_in_components_pass_but_for_those_that_need_arguments():
    results = check_components("lightning-rlhf")
    assert {result.distribution for result in results} == {"lightning-rlhf"}
    assert {result.version for result in results} == {__version__}
    unchecked = {result.name: result.reasons for result in results if result.verdict == "unchecked"}
    assert set(unchecked) == {"file", "hub", "function"}
    assert "it needs path, and its `example` does not say" in unchecked["file"][0]
    assert "test it with DataSourceContract and `init_args`" in unchecked["file"][0]
    assert [result for result in results if result.verdict == "fail"] == []
    passed = {result.name: result.reasons for result in results if result.verdict == "pass"}
    assert len(passed) == 14
    assert "isolates_messages is False" in passed.pop("tokenizer")[0]
    assert set(passed.values()) == {()}


def test_a_good_plug_in_passes(fake_plugins):
    fake_plugins.install("good", reward_plugin("return [float(len(response)) for response in responses]"))
    result = only(check_components("good"))
    assert (result.distribution, result.version, result.kind, result.name) == (
        "good",
        "1.0",
        "reward_function",
        "shout",
    )
    assert (result.verdict, result.reasons) == ("pass", ())


def test_everything_that_is_installed_is_checked_when_nothing_is_named(fake_plugins, monkeypatch):
    fake_plugins.install("good", reward_plugin("return [0.0] * len(responses)"))
    monkeypatch.setattr("lightning_rlhf.testing.checking._checked", lambda manager, offer: ("pass", []))
    results = check_components()
    assert {result.distribution for result in results} >= {"lightning-rlhf", "good"}


def test_a_name_is_taken_as_package_indexes_take_it_and_a_wrong_one_is_told(fake_plugins):
    fake_plugins.install("very-good", reward_plugin("return [0.0] * len(responses)"))
    assert only(check_components("Very_Good")).verdict == "pass"
    with pytest.raises(ConfigError, match=r"got 'very-god'\. Did you mean very-good\?"):
        check_components("very-god")


def test_each_fault_of_a_component_is_told_once(fake_plugins):
    fake_plugins.install("bad", reward_plugin("return [float(row) for row, _ in enumerate(responses)][:-1]"))
    result = only(check_components("bad"))
    assert result.verdict == "fail"
    assert result.reasons[0] == ("reward function 'shout' must return one score per response, got 6 for 7 responses.")
    assert len(set(result.reasons)) == len(result.reasons)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("return [float(input()) for _ in responses]", "EOFError"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_component_can_neither_end_the_check_nor_hold_it_up(fake_plugins, body, message):
    fake_plugins.install("bad", reward_plugin(body))
    result = only(check_components("bad"))
    assert result.verdict == "fail"
    assert message in result.reasons[0]


def test_what_a_component_prints_is_not_in_the_way(fake_plugins, capsys):
    body = "import sys, warnings; print(responses); print(1, file=sys.stderr); warnings.warn('beware')"
    fake_plugins.install("loud", reward_plugin(f"{body}; return [0.0] * len(responses)"))
    assert only(check_components("loud")).verdict == "pass"
    assert capsys.readouterr() == ("", "")


def test_results_come_as_they_are_known(fake_plugins):
    fake_plugins.install("good", reward_plugin("return [0.0] * len(responses)"))
    results = iterate_checks("good")
    assert next(results).name == "shout"
    assert list(results) == []


def test_one_that_needs_arguments_is_not_passed_off_as_checked(fake_plugins):
    init = "def __init__(self, weight, *, bias, scale=1.0): self.weight = weight"
    fake_plugins.install("needy", reward_plugin("return [self.weight] * len(responses)", init=init))
    result = only(check_components("needy"))
    assert result.verdict == "unchecked"
    assert "it needs weight, bias, and its `example`" in result.reasons[0]
    assert "RewardFunctionContract and `init_args`" in result.reasons[0]


def test_one_that_needs_arguments_is_checked_with_its_example(fake_plugins):
    init = "example = {'weight': 1.0}\n    def __init__(self, weight): self.weight = weight"
    fake_plugins.install("helpful", reward_plugin("return [self.weight] * len(responses)", init=init))
    assert only(check_components("helpful")).verdict == "pass"
    wrong = "example = {'weight': 1.0, 'wieght': 1.0}\n    def __init__(self, weight): self.weight = weight"
    fake_plugins.install("mistaken", reward_plugin("return [self.weight] * len(responses)", "shout2", wrong))
    fake_plugins.forget()
    result = only(check_components("mistaken"))
    assert result.verdict == "fail"
    assert len(result.reasons) == 1
    assert "must be made with {'weight': 1.0, 'wieght': 1.0}, got TypeError" in result.reasons[0]


def test_a_function_that_makes_a_component_is_checked(fake_plugins):
    source = (
        reward_plugin("return [self.weight] * len(responses)", init="weight = 1.0")
        + """
def shout(weight: float) -> Shout:
    made = Shout()
    made.weight = weight
    return made

shout.example = {"weight": 0.5}

def needy(weight: float) -> Shout:
    return Shout()

@hookimpl(specname="rlhf_reward_functions")
def more():
    return [Component("made", shout), Component("needy", needy)]
"""
    )
    fake_plugins.install("makers", source)
    verdicts = {result.name: result.verdict for result in check_components("makers")}
    assert verdicts == {"shout": "pass", "made": "pass", "needy": "unchecked"}


def test_a_plug_in_that_was_set_aside_fails_with_its_reason(fake_plugins, monkeypatch):
    fake_plugins.install("broken", "import not_there_at_all")
    fake_plugins.install("newer", "", requires=("lightning-rlhf>=99",))
    fake_plugins.install("off", reward_plugin("return []"))
    monkeypatch.setenv("LIGHTNING_RLHF_DISABLE_PLUGINS", "off")
    for name, reason in (
        ("broken", "broken: importing 'broken' raised ModuleNotFoundError"),
        ("newer", "incompatible: it requires lightning-rlhf>=99"),
        ("off", "disabled: LIGHTNING_RLHF_DISABLE_PLUGINS names it"),
    ):
        result = only(check_components(name))
        assert (result.kind, result.name, result.verdict) == (None, None, "fail")
        assert result.reasons[0].startswith(reason)


def test_a_target_with_a_fault_fails_and_the_others_are_checked(fake_plugins):
    source = (
        reward_plugin("return [0.0] * len(responses)")
        + """
@hookimpl(specname="rlhf_reward_functions")
def more():
    return [Component("gone", "not_there_at_all:Gone"), Component("wrong", dict)]
"""
    )
    fake_plugins.install("partly", source)
    results = {result.name: result for result in check_components("partly")}
    assert results["shout"].verdict == "pass"
    assert results["gone"].verdict == results["wrong"].verdict == "fail"
    assert "raised ModuleNotFoundError" in results["gone"].reasons[0]
    assert "must be a subclass of RewardFunction" in results["wrong"].reasons[0]


def test_a_name_that_two_plug_ins_offer_fails_for_both(fake_plugins):
    for name in ("first", "second"):
        fake_plugins.install(name, reward_plugin("return [0.0] * len(responses)"))
    for name in ("first", "second"):
        result = only(check_components(name))
        assert result.verdict == "fail"
        assert "must have one owner, got first 1.0 (first.Shout) and second 1.0 (second.Shout)" in result.reasons[0]


DATASET = """
import socket
{head}
class Rows(DataSource):
    offline = {offline}

    def load(self, split):
        {connect}
        return [Text("one")] if split == "train" else []

@hookimpl
def rlhf_datasets():
    return [Component("rows", Rows)]
"""
CONNECT = "socket.create_connection(('rows.example.org', 443), timeout=1)"


def test_the_network_is_cut_off_and_what_needs_it_is_not_checked(fake_plugins):
    fake_plugins.install("remote", DATASET.format(head=HEAD, offline=False, connect=CONNECT))
    result = only(check_components("remote"))
    assert result.verdict == "unchecked"
    assert "it needs the network (it asked for rows.example.org), which is cut off here" in result.reasons[0]


def test_what_promises_to_work_offline_fails_if_it_does_not(fake_plugins):
    fake_plugins.install("liar", DATASET.format(head=HEAD, offline=True, connect=CONNECT))
    result = only(check_components("liar"))
    assert result.verdict == "fail"
    assert any("It says that it works offline" in reason for reason in result.reasons)


def test_what_falls_back_to_its_cache_passes(fake_plugins):
    body = f"try: {CONNECT}\n        except OSError: pass"
    fake_plugins.install("cached", DATASET.format(head=HEAD, offline=True, connect=body))
    assert only(check_components("cached")).verdict == "pass"


def test_components_are_not_checked_without_assertions():
    code = "from lightning_rlhf.testing.checking import check_components; check_components()"
    result = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert "components must be checked with assertions on, got python -O" in result.stderr
