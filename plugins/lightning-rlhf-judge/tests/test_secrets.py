"""The key stands in the environment and in one header, and nowhere else."""

import logging
import pickle
import sqlite3
import stat

import pytest
from lightning_rlhf_judge.scoring import ScoreJudge

from lightning_rlhf.errors import ConfigError, ScorerError

KEY = "sk-very/secret-0123456789"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)


def made(judge, **arguments):
    return ScoreJudge("m", judge.base_url, "JUDGE_KEY", **{"max_attempts": 2, "max_wait_s": 0.05, **arguments})


def test_the_key_is_neither_logged_nor_pickled_nor_cached(judge, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / "verdicts.sqlite"
    judge.script = [f"Your key is {KEY}.\nScore: 3"]
    function = made(judge, cache=str(cache))
    function(["p"], ["r"])
    assert judge.headers[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY.encode() not in cache.read_bytes() + pickle.dumps(function)
    assert KEY not in caplog.text + repr(vars(function))


def test_a_key_that_the_reply_holds_in_escapes_is_not_cached(judge, tmp_path):
    cache = tmp_path / "verdicts.sqlite"
    escaped = KEY.replace("s", "\\u0073").replace("/", "\\/")
    body = f'{{"choices": [{{"message": {{"content": "{escaped}\\nScore: 3"}}}}]}}'
    judge.script = [{"body": body}]
    made(judge, cache=str(cache))(["p"], ["r"])
    assert sqlite3.connect(cache).execute("SELECT verdict FROM verdicts").fetchall() == [("[key]\nScore: 3",)]


@pytest.mark.parametrize("before", [None, 0o644])
def test_the_cache_is_its_owner_s_alone(judge, tmp_path, before):
    cache = tmp_path / "verdicts.sqlite"
    if before is not None:
        cache.touch(before)
    made(judge, cache=str(cache))(["p"], ["r"])
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "reply",
    [
        {"status": 401, "body": f"Incorrect API key provided: {KEY}"},
        {"status": 500, "body": f"cannot bill {KEY}"},
        {"status": 200, "body": f"not JSON {KEY}"},
        f"I will not tell that it is {KEY}",
        {"status": 401, "body": '{"error": "' + KEY.replace("s", "\\u0073") + '"}'},
        {"status": 200, "body": '{"error": "' + KEY.replace("-", "\\\\u002D") + '"}'},
        {"status": 500, "body": f"<p>{KEY.replace('s', '&#115;')}</p>"},
    ],
)
def test_what_a_server_says_of_the_key_is_not_shown(judge, reply):
    judge.script = [reply]
    with pytest.raises(ScorerError, match=r"\[key\]") as error:
        made(judge, cache=None)(["p"], ["r"])
    assert KEY not in str(error.value)


def test_a_missing_key_stops_with_the_name_of_the_variable(judge, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ScorerError, match="environment variable JUDGE_KEY must hold the key"):
        made(judge, cache=None)(["p"], ["r"])
    assert judge.requests == []


def test_a_key_that_no_header_can_hold_is_not_shown(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\u00e9")
    with pytest.raises(ScorerError, match="must be visible ASCII") as error:
        made(judge, cache=None)(["p"], ["r"])
    assert KEY not in str(error.value)


@pytest.mark.parametrize("arguments", [{"api_key_env": KEY}, {"base_url": f"https://me:{KEY}@host/v1"}])
def test_a_key_in_the_config_is_refused_and_not_shown(arguments):
    with pytest.raises(ConfigError, match="api_key_env") as error:
        ScoreJudge("m", **arguments)
    assert KEY not in str(error.value)
