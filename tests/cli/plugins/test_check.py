import pytest

from lightning_rlhf.cli.main import main
from lightning_rlhf.plugin_system.manager import PluginRecord, plugin_manager
from lightning_rlhf.plugin_system.offers import OfferedComponent
from lightning_rlhf.plugin_system.reporting import PluginWarning

GOOD = """
    from lightning_rlhf import Component, RewardFunction, hookimpl

    class Same(RewardFunction):
        def __call__(self, prompts, responses, **columns):
            return [0.5] * len(responses)

    class Short(Same):
        def __call__(self, prompts, responses, **columns):
            return [0.5] * (len(responses) - 1)

    class Needy(Same):
        def __init__(self, key: str) -> None:
            pass

    @hookimpl
    def rlhf_reward_functions():
        return [Component("same", Same), *MORE]

    MORE = []
"""


def test_good_components_pass(fake_plugins, capsys):
    fake_plugins.install("good", GOOD)
    assert main(["plugins", "check", "good"]) == 0
    assert capsys.readouterr().out == "PASS  good 1.0  reward_function same\n1 passed, 0 failed\n"


def test_a_component_that_breaks_its_contract_fails_with_the_reason(fake_plugins, capsys):
    fake_plugins.install("bad", GOOD.replace("MORE = []", 'MORE = [Component("short", Short)]'))
    assert main(["plugins", "check", "bad"]) == 1
    passed, failed, reason, *others = capsys.readouterr().out.splitlines()
    assert (passed, failed) == ("PASS  bad 1.0  reward_function same", "FAIL  bad 1.0  reward_function short")
    assert reason.startswith("      reward function 'short' must")
    assert others[-1] == "1 passed, 1 failed"


def test_a_plug_in_that_was_set_aside_fails(fake_plugins, capsys):
    fake_plugins.install("broken", "raise RuntimeError('no licence')")
    assert main(["plugins", "check", "broken"]) == 1
    assert capsys.readouterr().out == (
        "FAIL  broken 1.0\n      broken: importing 'broken' raised RuntimeError: no licence\n0 passed, 1 failed\n"
    )


def test_what_cannot_be_made_without_arguments_is_said_to_be_unchecked(fake_plugins, capsys):
    fake_plugins.install("needy", GOOD.replace("MORE = []", 'MORE = [Component("needy", Needy)]'))
    assert main(["plugins", "check", "needy"]) == 0
    printed = capsys.readouterr().out
    assert "UNCHECKED  needy 1.0  reward_function needy\n      it needs key" in printed
    assert printed.endswith("1 passed, 0 failed, 1 unchecked\n")


def test_what_is_disabled_fails_only_where_it_is_asked_for(monkeypatch):
    offers = (OfferedComponent("model", "tiny", "lightning_rlhf.builtins.models:TinyModel", "", "lightning-rlhf", "1"),)
    records = (PluginRecord("lightning-rlhf", "1", "active", None, offers), PluginRecord("off", "1", "disabled", "why"))
    monkeypatch.setattr(plugin_manager(), "plugins", records)
    assert main(["plugins", "check"]) == 0
    assert main(["plugins", "check", "off"]) == 1


def test_an_unknown_distribution_exits_with_2_and_near_names(fake_plugins, capsys):
    fake_plugins.install("good", GOOD)
    assert main(["plugins", "check", "gooood"]) == 2
    assert "got 'gooood'. Did you mean good?" in capsys.readouterr().err


def test_nothing_warns_beside_the_results(fake_plugins):
    fake_plugins.install("broken", "raise RuntimeError('no licence')")
    result = fake_plugins.python("from lightning_rlhf.cli.main import main\nmain(['plugins', 'check', 'broken'])")
    assert result.stderr == ""
    assert PluginWarning.__name__ not in result.stdout


@pytest.mark.slow
def test_every_built_in_component_passes_but_those_that_read_what_only_a_user_has(capsys):
    assert main(["plugins", "check", "lightning-rlhf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    unchecked = [line.split()[-2:] for line in lines if line.startswith("UNCHECKED")]
    assert unchecked == [["dataset", "file"], ["dataset", "hub"], ["reward_function", "function"]]
