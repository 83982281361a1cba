import asyncio
import email.utils
import gzip
import socket
import time

import pytest
from lightning_rlhf_judge.endpoint import Endpoint

from lightning_rlhf.errors import ConfigError, ScorerError

BODY = {"model": "m", "messages": [{"role": "user", "content": "Is it good?"}]}


def ask(base_url, api_key_env=None, timeout_s=5.0, max_attempts=3, max_wait_s=0.05):
    endpoint = Endpoint(base_url, api_key_env, timeout_s=timeout_s, max_attempts=max_attempts, max_wait_s=max_wait_s)

    async def asked():
        async with endpoint.connect(1) as connection:
            return await connection.ask(BODY)

    return asyncio.run(asked())


def test_a_question_is_posted_as_a_chat_completion(judge):
    judge.script = ["Fine."]
    reply = ask(judge.base_url + "/")
    assert (reply.text, reply.finish_reason) == ("Fine.", "stop")
    assert judge.requests == [BODY]
    path, headers = judge.headers[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers


def test_the_key_of_the_environment_is_sent(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    ask(judge.base_url, "JUDGE_KEY")
    assert judge.headers[0][1]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "body": "overloaded"},
        {"status": 429, "body": "busy"},
        {"status": 503, "body": "starting", "headers": {"Retry-After": "0.01"}},
        {"status": 200, "body": "<html>welcome to the hotel</html>"},
        {"status": 200, "body": {"choices": []}},
        {"status": 200, "body": [1]},
        {"status": 200, "body": "[" * 200_000},
        {"status": 200, "body": "x", "headers": {"Content-Encoding": "gzip"}},
    ],
)
def test_a_passing_fault_is_tried_again(judge, fault):
    judge.script = [fault, fault, "Fine."]
    assert ask(judge.base_url).text == "Fine."
    assert len(judge.requests) == 3


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_reply_without_end_is_refused_before_memory_is(judge, headers):
    body = b" " * (9 * 2**20)
    judge.script = [{"body": gzip.compress(body) if headers else body, "headers": headers}]
    with pytest.raises(ScorerError, match="must reply in at most 8 MB, got more"):
        ask(judge.base_url)
    assert len(judge.requests) == 1


def test_half_a_character_in_a_reply_does_no_harm(judge):
    judge.script = [{"body": '{"choices": [{"message": {"content": "Score: \\ud800 3"}}]}'}]
    assert ask(judge.base_url).text == "Score: \ufffd 3"


def test_a_fault_that_stays_stops_with_what_the_server_said(judge):
    judge.script = [{"status": 500, "body": "out of memory"}]
    with pytest.raises(
        ScorerError, match=r"'m' at .*must be reachable, got status 500: 'out of memory' at the last of 3 "
    ):
        ask(judge.base_url)
    assert len(judge.requests) == 3


@pytest.mark.parametrize(
    ("status", "hint"),
    [(400, "`body` adds fields"), (401, "Set api_key_env"), (404, "Ollama wants it pulled first"), (302, "Correct")],
)
def test_a_refusal_is_not_repeated(judge, status, hint):
    judge.script = [{"status": status, "body": {"error": "no such thing"}}]
    with pytest.raises(ScorerError, match=rf"status {status}: .*no such thing.*{hint}"):
        ask(judge.base_url)
    assert len(judge.requests) == 1


def test_the_pause_that_the_server_asks_for_is_kept(judge):
    judge.script = [{"status": 429, "body": "", "headers": {"Retry-After": "0.3"}}, "Fine."]
    start = time.monotonic()
    ask(judge.base_url, max_wait_s=1)
    assert time.monotonic() - start > 0.3


def test_a_date_to_come_back_at_is_understood(judge):
    date = email.utils.formatdate(time.time() + 3600, usegmt=True)
    judge.script = [{"status": 429, "body": "quota", "headers": {"Retry-After": date}}]
    with pytest.raises(ScorerError, match=r"free within max_wait_s \(1\), got a request to wait 3\d\d\d"):
        ask(judge.base_url, max_wait_s=1)
    assert len(judge.requests) == 1


@pytest.mark.parametrize("fault", ["stall", "trickle"])
def test_a_server_that_never_ends_its_reply_is_given_up(judge, fault):
    judge.script = [fault]
    start = time.monotonic()
    with pytest.raises(
        ScorerError, match=r"must be reachable, got no whole reply within 0.3 s at the last of 2 attempts"
    ):
        ask(judge.base_url, timeout_s=0.3, max_attempts=2)
    assert time.monotonic() - start < 5


def test_a_server_that_does_not_run_stops_with_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ScorerError, match=rf"at {url} must be reachable, got ConnectError.*Start the server"):
            ask(url)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/v1", "ftp://host/v1", "http:///v1", "https://host/v1?key=1", "", "http://[::1"),
        *("http://host:abc/v1", "http://host:70000/v1", "http://host:0/v1", "http://a b/v1"),
    ],
)
def test_an_address_that_cannot_work_is_refused(url):
    with pytest.raises(ConfigError, match="base_url must be an http or https address"):
        ask(url)


@pytest.mark.parametrize("arguments", [{"timeout_s": 0}, {"max_attempts": 0}, {"max_wait_s": float("nan")}])
def test_limits_must_be_positive(arguments):
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))} must be above 0"):
        ask("http://localhost/v1", **arguments)
