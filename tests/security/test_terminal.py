"""What a file, a model or a plug-in wrote, in everything that the command line prints."""

import logging
import sys
import warnings
from types import SimpleNamespace

import pytest

from lightning_rlhf.callbacks import Sample, SampleTable
from lightning_rlhf.cli import main as main_module
from lightning_rlhf.cli.main import main
from lightning_rlhf.errors import ScorerError
from lightning_rlhf.plugin_system.reporting import PluginWarning

HARMFUL = "\x1b[2J\x1b]0;title\x07\x9b31m\r\u202e\u2066评分"
SOURCE = f"""
from lightning_rlhf import Component, RewardFunction, hookimpl

class Score(RewardFunction):
    {HARMFUL!a}

    def __init__(self, wish: str = {HARMFUL!a}) -> None:
        pass

    def __call__(self, prompts, responses, **columns):
        raise ValueError({HARMFUL!a})

@hookimpl
def rlhf_reward_functions():
    return [Component("score", Score, {HARMFUL!a})]
"""


@pytest.fixture
def said(capsys):
    """`said()`: everything that was printed, with nothing in it that acts on a terminal."""

    def said():
        printed = capsys.readouterr()
        text = printed.out + printed.err
        for character in "\x1b\x07\x9b\r\u202e\u2066":
            assert character not in text
        return text

    return said


@pytest.mark.parametrize("words", [["list"], ["show", "reward_function", "score"], ["check", "evil"]])
def test_a_plug_in_s_words(fake_plugins, said, words):
    fake_plugins.install("evil", SOURCE, version="1\x1b[2J")
    assert main(["plugins", *words]) in (0, 1)
    assert "1\\x1b[2J" in said()


@pytest.mark.filterwarnings("default")
def test_a_plug_in_s_error(fake_plugins, said):
    fake_plugins.install("evil", f"raise ImportError({HARMFUL!a})")
    main(["plugins", "list"])
    assert "\\x1b[2J" in said()


def test_errors_warnings_and_log_lines(said, monkeypatch):
    def imported(_):
        """As Lightning, which brings a formatter of its own."""
        monkeypatch.setattr(warnings, "formatwarning", lambda message, *_: f"lightning: {message}\n")
        return SimpleNamespace(run=fail)

    def fail(*_):
        for subject, category in (("row", UserWarning), ("plug-in", PluginWarning)):  # pytest shows warnings itself
            sys.stderr.write(warnings.formatwarning(category(f"{subject} {HARMFUL}"), category, "file.py", 1))
        logger = logging.getLogger("some library")
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.warning("model %s", HARMFUL)
        raise ScorerError(f"reward function said {HARMFUL}\nsecond line")

    monkeypatch.setattr(main_module, "import_module", imported)
    before = warnings.formatwarning, logging.getLogRecordFactory()
    assert main(["fit"]) == 2
    text = said()
    for subject in ("row", "plug-in", "model", "reward function said"):
        assert f"{subject} \\x1b[2J" in text
    assert "评分\nsecond line" in text
    assert (warnings.formatwarning, logging.getLogRecordFactory()) == before


def test_samples(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    SampleTable()._show([Sample(HARMFUL, f"好\n{HARMFUL}", {HARMFUL: 1.0}, None, HARMFUL)], 0)
    assert "好" in said()
