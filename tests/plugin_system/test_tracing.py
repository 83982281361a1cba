import re

import pytest

from lightning_rlhf.plugin_system.manager import Manager
from lightning_rlhf.plugin_system.reporting import PluginWarning

PLUGIN = """
    from lightning_rlhf import Component, ModelSource, hookimpl

    class Small(ModelSource):
        def load(self):
            pass

    @hookimpl
    def rlhf_models():
        return [Component("small", Small, "a small model")]
"""
ON = {"LIGHTNING_RLHF_TRACE_PLUGINS": "1"}


def lines_of(capsys, distribution):
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if f": {distribution} " in line]
    return [re.sub(r"[\d.]+ ms$", "... ms", line) for line in lines]


def test_calls_and_results_are_printed(fake_plugins, capsys):
    fake_plugins.install("good", PLUGIN)
    manager = fake_plugins.manager(**ON)
    manager.resolve("model", "small")
    imported, asked, used = lines_of(capsys, "good")
    assert imported.startswith("lightning-rlhf: trace: good 1.0: importing 'good' -> <module 'good' from ")
    assert asked == (
        "lightning-rlhf: trace: good 1.0: rlhf_models() -> "
        "[Component(name='small', target=<class 'good.Small'>, summary='a small model')] in ... ms"
    )
    assert used == "lightning-rlhf: trace: good 1.0: model small -> <class 'good.Small'> in ... ms"


def test_what_a_hook_raises_is_printed(fake_plugins):
    fake_plugins.install("bad", PLUGIN.replace("return [", "raise KeyError('x'); ["))
    printed = fake_plugins.python("from lightning_rlhf.cli.main import main\nmain(['plugins', 'list'])", **ON).stderr
    assert re.search(
        r"trace: bad 1\.0: rlhf_models\(\) failed after [\d.]+ ms: hook rlhf_models raised KeyError", printed
    )


def test_what_is_not_asked_is_printed_with_the_reason(fake_plugins, capsys):
    fake_plugins.install("unwanted", PLUGIN)
    fake_plugins.manager(LIGHTNING_RLHF_DISABLE_PLUGINS="unwanted", **ON)
    assert lines_of(capsys, "unwanted") == [
        "lightning-rlhf: trace: unwanted 1.0: not asked: LIGHTNING_RLHF_DISABLE_PLUGINS names it"
    ]
    fake_plugins.install("future", PLUGIN, requires=("lightning-rlhf>=99",))
    with pytest.warns(PluginWarning):
        fake_plugins.manager(**ON)
    (line,) = lines_of(capsys, "future")
    assert line.startswith("lightning-rlhf: trace: future 1.0: not asked: it requires lightning-rlhf>=99")


def test_a_rank_says_which_it_is(fake_plugins, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    Manager([], ON)
    assert "lightning-rlhf: trace: rank 3: lightning-rlhf " in capsys.readouterr().err


def test_nothing_is_printed_unless_it_is_asked_for(fake_plugins, capsys):
    fake_plugins.install("good", PLUGIN)
    fake_plugins.manager()
    fake_plugins.manager(LIGHTNING_RLHF_TRACE_PLUGINS="0")
    assert capsys.readouterr().err == ""
