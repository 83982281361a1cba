import json

import pytest

from lightning_rlhf.cli.main import main
from lightning_rlhf.plugin_system.reporting import PluginWarning
from lightning_rlhf.version import __version__

NOT_OURS = "LIGHTNING_RLHF_LOAD_PLUGINS does not name it"
"""Of what is installed where the tests run."""

GOOD = """
    from lightning_rlhf import Component, hookimpl

    @hookimpl
    def rlhf_models():
        return [Component("small", "not_imported:Model", "a small model")]
"""


@pytest.fixture
def four_plugins(fake_plugins, monkeypatch):
    fake_plugins.install("good", GOOD)
    fake_plugins.install("noisy", "print('noise')\nraise RuntimeError('no\\nlicence')", version="0.2")
    fake_plugins.install("future", "raise RuntimeError", version="3", requires=("lightning-rlhf>=99",))
    fake_plugins.install("unwanted", "raise RuntimeError")
    monkeypatch.setenv("LIGHTNING_RLHF_DISABLE_PLUGINS", "unwanted")
    return fake_plugins


def test_the_list_as_json_has_every_distribution_with_status_and_reason(four_plugins, capsys):
    with pytest.warns(PluginWarning):
        assert main(["plugins", "list", "--json"]) == 0
    plugins = [plugin for plugin in json.loads(capsys.readouterr().out) if plugin["reason"] != NOT_OURS]
    assert [tuple(plugin) for plugin in plugins] == [("distribution", "version", "status", "reason", "components")] * 5
    builtin, *others = plugins
    assert builtin["distribution"] == "lightning-rlhf"
    assert builtin["version"] == __version__
    assert {"kind", "name", "summary"} == set(builtin["components"][0])
    assert {component["kind"] for component in builtin["components"]} == {
        "dataset", "prompt_template", "reward_function", "ranking_converter", "model",
    }  # fmt: skip
    assert others == [
        {
            "distribution": "future",
            "version": "3",
            "status": "incompatible",
            "reason": f"it requires lightning-rlhf>=99, this is {__version__}",
            "components": [],
        },
        {
            "distribution": "good",
            "version": "1.0",
            "status": "active",
            "reason": None,
            "components": [{"kind": "model", "name": "small", "summary": "a small model"}],
        },
        {
            "distribution": "noisy",
            "version": "0.2",
            "status": "broken",
            "reason": "importing 'noisy' raised RuntimeError: no licence",
            "components": [],
        },
        {
            "distribution": "unwanted",
            "version": "1.0",
            "status": "disabled",
            "reason": "LIGHTNING_RLHF_DISABLE_PLUGINS names it",
            "components": [],
        },
    ]


def test_the_list_as_text_shows_the_same(four_plugins, capsys):
    with pytest.warns(PluginWarning):
        assert main(["plugins", "list"]) == 0
    blocks = [block for block in capsys.readouterr().out.rstrip("\n").split("\n\n") if NOT_OURS not in block]
    assert blocks[0].startswith(
        f"lightning-rlhf {__version__}  active\n  dataset            file             local jsonl"
    )
    main(["plugins", "list", "--json"])
    components = json.loads(capsys.readouterr().out)[0]["components"]
    shown = [tuple(line.split()[:2]) for line in blocks[0].splitlines()[1:]]
    assert sorted(shown) == sorted((component["kind"], component["name"]) for component in components)
    assert blocks[1:] == [
        f"future 3  incompatible: it requires lightning-rlhf>=99, this is {__version__}",
        "good 1.0  active\n  model              small  a small model",
        "noisy 0.2  broken: importing 'noisy' raised RuntimeError: no licence",
        "unwanted 1.0  disabled: LIGHTNING_RLHF_DISABLE_PLUGINS names it",
    ]


def test_a_name_of_two_plugins_is_marked_with_the_class_path_to_use(fake_plugins, capsys):
    fake_plugins.install("first", GOOD)
    fake_plugins.install("second", GOOD)
    main(["plugins", "list"])
    assert capsys.readouterr().out.count("(also offered by another plug-in: use not_imported.Model)") == 2


def test_warnings_are_one_line_each_on_standard_error(four_plugins):
    result = four_plugins.python("from lightning_rlhf.cli.main import main\nmain(['plugins', 'list', '--json'])")
    json.loads(result.stdout)
    assert result.stderr.splitlines() == [
        "lightning-rlhf: warning: plug-in future 3 is set aside: "
        f"it requires lightning-rlhf>=99, this is {__version__}.",
        "lightning-rlhf: warning: plug-in noisy 0.2 is set aside: importing 'noisy' raised RuntimeError: no licence.",
    ]


def test_strict_mode_is_an_error_of_one_line(four_plugins, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNING_RLHF_STRICT_PLUGINS", "1")
    assert main(["plugins", "list"]) == 2
    assert capsys.readouterr().err.startswith("lightning-rlhf: error: plug-in future 3 is set aside: it requires")


@pytest.mark.parametrize("words", [[], ["lost"], ["list", "--yaml"]])
def test_words_that_are_not_understood_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["plugins", *words])
    assert exited.value.code == 2
    assert "usage: lightning-rlhf plugins" in capsys.readouterr().err


def test_the_list_of_twenty_plugins_imports_nothing_heavy(fake_plugins):
    """What keeps it within its 0.4 CPU seconds: the numbers of one machine would say less."""
    for number in range(20):
        fake_plugins.install(f"many-{number}", GOOD.replace('"small"', f'"small_{number}"'))
    result = fake_plugins.python(
        """
        import sys
        from lightning_rlhf.cli.main import main
        main(["plugins", "list"])
        for name in sys.modules:
            print(name)
        """
    )
    assert result.stdout.count("  active") == 21
    heavy = {"torch", "transformers", "numpy", "lightning", "datasets", "peft", "jsonargparse", "rich", "yaml"}
    assert not heavy & set(result.stdout.splitlines())
