import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.cli.main import main
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.plugin_system.reporting import PluginWarning
from lightning_rlhf.registry import publish

SHOUT = '''
    from collections.abc import Mapping
    from typing import Any, ClassVar, Literal
    from lightning_rlhf import Component, RewardFunction, hookimpl

    class Loud(RewardFunction):
        """Rewards capitals.

        Long responses count more.

        Args:
            word: what must be said; {a: b} is text.
            marks: how many of them.
            case: which case.

        Example:
            Loud("hey")
        """

        example: ClassVar[Mapping[str, Any]] = {"word": "hey\\nyou"}

        def __init__(self, word: str, marks: int | None = None, case: Literal["upper", "lower"] = "upper",
                     places: tuple[int, ...] = (1, 2)) -> None:
            pass

        def __call__(self, prompts, responses, **columns):
            return [0.0] * len(responses)

    class Louder(Loud):
        def __init__(self, volume: float = 0.5, **kwargs) -> None:
            super().__init__(**kwargs)

    class Needy(RewardFunction):
        def __init__(self, count: int, unit: Literal["words"], name: str, flag: bool) -> None:
            pass

        def __call__(self, prompts, responses, **columns):
            return [0.0] * len(responses)

    def made(strength: float = 2.0) -> Loud:
        """Makes a loud one."""
        return Loud("made")

    @hookimpl
    def rlhf_reward_functions():
        return [Component("loud", Loud, "likes capitals"), Component("louder", Louder), Component("needy", Needy),
                Component("made", made), Component("lost", "no_such_module:X")]
'''


@pytest.fixture
def shout(fake_plugins):
    fake_plugins.install("shout", SHOUT, version="1.2")


def shown(capsys, *words):
    assert main(["plugins", "show", *words]) == 0
    return capsys.readouterr().out


def config_in(text):
    return yaml.safe_load(text.partition("in a config:\n\n")[2].partition("\n\n")[0])


def test_a_component_is_shown_with_origin_docstring_and_typed_arguments(shout, capsys):
    text = shown(capsys, "reward_function", "loud")
    assert text.startswith(
        "reward_function loud: likes capitals\nof shout 1.2, shout.Loud\n\nRewards capitals.\n\n"
        "Long responses count more.\n\nExample:\n    Loud(\"hey\")\n\n"
        "arguments:\n"
        "  word: str, required\n      what must be said; {a: b} is text.\n"
        "  marks: int | null, default null\n      how many of them.\n"
        '  case: "upper" | "lower", default "upper"\n      which case.\n'
        "  places: tuple[int, ...], default [1, 2]\n\n"
    )  # fmt: skip
    assert text.endswith("\n\non the command line: --model.rewards+=loud\n")


def test_the_config_takes_the_example_of_the_component(shout, capsys):
    text = shown(capsys, "reward_function", "loud")
    (reward,) = config_in(text)["model"]["init_args"]["rewards"]
    assert reward == {"class_path": "loud", "init_args": {"word": "hey\nyou", "case": "upper", "places": [1, 2]}}
    assert '"hey\\nyou"' in text


def test_arguments_without_example_or_default_get_a_value_of_their_type(shout, capsys):
    (reward,) = config_in(shown(capsys, "reward_function", "needy"))["model"]["init_args"]["rewards"]
    assert reward["init_args"] == {"count": 1, "unit": "words", "name": "...", "flag": True}


def test_arguments_that_are_passed_on_to_the_base_are_shown(shout, capsys):
    text = shown(capsys, "reward_function", "louder")
    assert "volume: float, default 0.5" in text
    assert "word: str, required\n      what must be said" in text


def test_a_function_is_shown_by_its_own_docstring_and_arguments(shout, capsys):
    text = shown(capsys, "reward_function", "made")
    assert "shout.made\n\nMakes a loud one.\n\narguments:\n  strength: float, default 2.0" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reward_fn", "length"), "the kind must be one of dataset, prompt_template, reward_function"),
        (("reward_fn", "length"), "got 'reward_fn'. Did you mean reward_function?"),
        (("reward_function", "lengt"), "must be one of function, length, lost, loud, louder, made, needy"),
        (("reward_function", "lengt"), "got 'lengt'. Did you mean length?"),
        (("ranking_converter", "loud"), "ranking converter must be one of"),
    ],
)  # fmt: skip
def test_an_unknown_kind_or_name_exits_with_2_and_near_names(shout, capsys, words, message):
    assert main(["plugins", "show", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_component_that_is_set_aside_says_why(shout, capsys):
    with pytest.warns(PluginWarning):
        assert main(["plugins", "show", "reward_function", "lost"]) == 2
    assert "ModuleNotFoundError: No module named 'no_such_module'" in capsys.readouterr().err


def test_a_name_of_two_plugins_shows_both_class_paths(fake_plugins, capsys):
    fake_plugins.install("shout", SHOUT)
    fake_plugins.install("shout2", SHOUT)
    assert main(["plugins", "show", "reward_function", "loud"]) == 2
    message = capsys.readouterr().err
    assert "shout 1.0 (shout.Loud)" in message
    assert "shout2 1.0 (shout2.Loud)" in message


def assert_taken_by_fit(capsys, kind, name):
    text = shown(capsys, kind, name)
    Path("fit.yaml").write_text(text.partition("in a config:\n\n")[2].partition("\n\n")[0])
    option = text.partition("on the command line: ")[2].splitlines()[0]
    # the option a second time: it must be understood, and stands in for what the file says
    words = ["fit", "--config", "fit.yaml", *([option] if kind == "reward_function" else []), "--print_config"]
    assert main(words) == 0, (kind, name)
    assert f".{name}\n" in capsys.readouterr().out


EXAMPLES = {
    "dataset": "file",
    "prompt_template": "chatml",
    "reward_function": "regex",
    "ranking_converter": "zscore",
    "model": "tiny",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_that_is_shown_is_one_that_fit_takes(capsys, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert_taken_by_fit(capsys, kind, EXAMPLES[kind])


@pytest.mark.slow
def test_every_config_that_is_shown_is_one_that_fit_takes(shout, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(PluginWarning):
        publish()
    for kind in KINDS:
        for name in plugin_manager().components(kind):
            assert_taken_by_fit(capsys, kind, name)


def test_the_command_line_tells_mistakes_without_a_traceback():
    words = [sys.executable, "-m", "lightning_rlhf", "plugins", "show", "model", "tinny"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("Did you mean tiny?")
