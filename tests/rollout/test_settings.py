import time

import pytest

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout import settings
from lightning_rlhf.rollout.settings import RolloutSettings, progress


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_response_length": 0}, "max_response_length must be at least 1"),
        ({"num_responses_per_prompt": 0}, "num_responses_per_prompt must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1"),
        ({"gae_lambda": -0.1}, "gae_lambda must be between 0 and 1"),
        ({"missing_stop_penalty": -1.0}, "missing_stop_penalty must be 0 or more"),
        ({"sampler": "other"}, "sampler must be one of builtin, transformers"),
    ],
)
def test_settings_that_break_a_rule_are_errors(change, message):
    with pytest.raises(ConfigError, match=message):
        RolloutSettings(**{"max_response_length": 4, **change})


def test_no_bar_is_shown_for_what_is_done_at_once(capsys):
    with progress("sampling", 2, True) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_bar_is_shown_on_stderr_for_what_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(settings, "_PROGRESS_DELAY_S", 0.01)
    with progress("sampling", 2, True) as bar:
        time.sleep(0.15)
        bar.update(2)
    captured = capsys.readouterr()
    assert "sampling" in captured.err
    assert captured.out == ""


def test_other_ranks_show_no_bar(capsys, monkeypatch):
    monkeypatch.setattr(settings, "_PROGRESS_DELAY_S", 0.01)
    with progress("sampling", 2, False) as bar:
        time.sleep(0.15)
        bar.update(2)
    assert capsys.readouterr().err == ""
