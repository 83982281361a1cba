"""One OpenAI-compatible endpoint: what is sent, what is waited for, and what is tried again."""

import asyncio
import contextlib
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import tenacity

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf_judge.secrets import without_key
from lightning_rlhf_judge.template import shortened

__all__ = ["Endpoint", "Reply"]

# Busy, slow or broken for now; any other refusal stays one however often it is asked.
_PASSING = frozenset({408, 409, 425, 429})
_FIRST_WAIT_S = 0.5
_LARGEST_REPLY = 8 * 2**20
"""Bytes, unpacked. A verdict takes a few hundred."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one question."""

    text: str
    """Empty where the model said nothing."""
    finish_reason: str | None
    usage: object
    """What the endpoint says of the tokens, if anything."""


class _PassingFaultError(Exception):
    """What may be gone at the next attempt."""

    def __init__(self, description: str, retry_after_s: float | None = None) -> None:
        super().__init__(description)
        self.retry_after_s = retry_after_s


class Endpoint:
    """Asks `{base_url}/chat/completions`.

    The key is read from the environment for each client, stands in its header alone, and is cut out of whatever the
    server sends back.

    Args:
        base_url: up to and including the version, such as `http://localhost:11434/v1`.
        api_key_env: name of the environment variable that holds the key; None: no key.
        timeout_s: how long one attempt may take, from connecting to the last byte.
        max_attempts: attempts per question.
        max_wait_s: the longest pause between two attempts.

    Raises:
        ConfigError: an argument cannot work.
    """

    def __init__(
        self, base_url: str, api_key_env: str | None, *, timeout_s: float, max_attempts: int, max_wait_s: float
    ) -> None:
        self.base_url = _checked_url(base_url)
        self.api_key_env = _checked_variable(api_key_env)
        self.timeout_s = _positive("timeout_s", timeout_s)
        self.max_attempts = int(_positive("max_attempts", max_attempts))
        self.max_wait_s = _positive("max_wait_s", max_wait_s)

    def connect(self, num_connections: int) -> "Connection":
        """A client for so many questions at a time; to be closed.

        Raises:
            ScorerError: the key's environment variable is not set.
        """
        return Connection(self, self._key(), num_connections)

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ScorerError(
                f"the environment variable {self.api_key_env} must hold the key for {self.base_url}, got none. "
                "Set it where the run is started, or leave api_key_env out for a server that needs no key."
            )
        if not re.fullmatch(r"[!-~]+", key):  # it would be shown in the HTTP library's complaint
            raise ScorerError(
                f"the key in the environment variable {self.api_key_env} must be visible ASCII characters, got others."
            )
        return key


class Connection(contextlib.AbstractAsyncContextManager["Connection"]):
    """An open client."""

    def __init__(self, endpoint: Endpoint, key: str | None, num_connections: int) -> None:
        self._endpoint = endpoint
        self._key = key
        self._random = random.Random()  # the pauses differ from run to run; the run's own generators are left alone
        self._turns = asyncio.Semaphore(num_connections)
        self._client = httpx2.AsyncClient(
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"}
            | ({} if key is None else {"Authorization": f"Bearer {key}"}),
            timeout=None,  # its limits are for each read, which a server that trickles never exceeds: see _exchange
            limits=httpx2.Limits(max_connections=num_connections),
        )

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """The reply to a chat request, after as many attempts as it takes.

        Raises:
            ScorerError: the endpoint refused, or was still not reached at the last attempt.
        """
        endpoint = self._endpoint
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_PassingFaultError),
            stop=tenacity.stop_after_attempt(endpoint.max_attempts),
            wait=self._pause,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, body)
        except _PassingFaultError as fault:
            raise ScorerError(
                f"the judge {body['model']!r} at {endpoint.base_url} must be reachable, got {fault} at the last of "
                f"{retrying.statistics.get('attempt_number', 1)} attempts. Start the server or correct base_url; for "
                "one that is only slow or busy, raise timeout_s or max_attempts or lower concurrency."
            ) from fault

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """What the server asks for, or twice as long each time, spread so that not all come back together."""
        fault = state.outcome.exception() if state.outcome is not None else None
        if isinstance(fault, _PassingFaultError) and fault.retry_after_s is not None:
            return fault.retry_after_s
        longest = min(_FIRST_WAIT_S * 2 ** (state.attempt_number - 1), self._endpoint.max_wait_s)
        return self._random.uniform(longest / 2, longest)

    async def _attempt(self, body: Mapping[str, Any]) -> Reply:
        try:
            async with self._turns:
                status, headers, content = await self._exchange(body)
        except TimeoutError:
            raise _PassingFaultError(f"no whole reply within {self._endpoint.timeout_s:g} s") from None
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise _PassingFaultError(self._public(f"{type(error).__name__}: {error}".rstrip(": "))) from None
        text = self._public(content.decode("utf-8", errors="replace"))
        if status in _PASSING or status >= 500:
            raise _PassingFaultError(f"status {status}: {shortened(text)}", self._retry_after(status, headers, text))
        if status != 200:
            raise ScorerError(
                f"the judge {body['model']!r} at {self._endpoint.base_url} must accept a question, got status "
                f"{status}: {shortened(text, 500)}. {self._hint(status)}"
            )
        return self._reply(content)

    async def _exchange(self, body: Mapping[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
        url, sent = f"{self._endpoint.base_url}/chat/completions", json.dumps(dict(body)).encode()
        content = bytearray()
        async with (
            asyncio.timeout(self._endpoint.timeout_s),
            self._client.stream("POST", url, content=sent) as response,
        ):
            async for part in response.aiter_bytes(2**16):
                content += part
                if len(content) > _LARGEST_REPLY:
                    raise ScorerError(
                        f"the judge {body['model']!r} at {self._endpoint.base_url} must reply in at most "
                        f"{_LARGEST_REPLY // 2**20} MB, got more. Correct base_url, or choose another judge."
                    )
        return response.status_code, response.headers, bytes(content)

    def _retry_after(self, status: int, headers: httpx2.Headers, text: str) -> float | None:
        seconds = _seconds(headers.get("Retry-After"))
        if seconds is not None and seconds > self._endpoint.max_wait_s:
            raise ScorerError(
                f"the judge at {self._endpoint.base_url} must be free within max_wait_s "
                f"({self._endpoint.max_wait_s:g}), got a request to wait {seconds:g} s (status {status}: "
                f"{shortened(text)}). Raise max_wait_s to wait, or lower concurrency; verdicts that were given are in "
                "the cache."
            )
        return seconds

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            variable = self._endpoint.api_key_env
            return (
                f"Correct the key in the environment variable {variable}."
                if variable
                else "Set api_key_env to the name of the environment variable that holds the key."
            )
        if status == 404:
            return "Correct base_url (it mostly ends in /v1) and model (Ollama wants it pulled first)."
        return "Correct what it complains about; `body` adds fields to the request, and null takes one out."

    def _public(self, text: str) -> str:
        return without_key(text, self._key)

    def _reply(self, body: bytes) -> Reply:
        """The reply in a response's body; the key is looked for in what its JSON stands for, not in how it is written.

        Raises:
            _PassingFaultError: it is no chat completion.
        """
        text = body.decode("utf-8", errors="replace")
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            content, reason = choice["message"].get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _PassingFaultError(
                f"something else than a chat completion: {shortened(self._public(text))}"
            ) from None
        said = _whole_characters(content) if isinstance(content, str) else ""
        return Reply(self._public(said), reason if isinstance(reason, str) else None, answer.get("usage"))


def _whole_characters(text: str) -> str:
    """Text that can be written; JSON may hold halves of characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _seconds(header: str | None) -> float | None:
    """A Retry-After header, which holds seconds or a date."""
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.username is not None or parts.password is not None
    except ValueError:
        secret = False
    try:
        httpx2.URL(url)  # refuses hosts that no name server takes
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and not (parts.query or parts.fragment or re.search(r"\s", url))
    except (ValueError, httpx2.InvalidURL):  # a port that is no number, or too large
        sound = False
    if secret or (not sound and "@" in url):  # not shown: what stands before the @ is a secret
        raise ConfigError("base_url must hold no user or password, got one. Set api_key_env for a key.")
    if not sound:
        raise ConfigError(
            f"base_url must be an http or https address without ? and #, got {url!r}. Ollama: "
            "http://localhost:11434/v1, vLLM: http://localhost:8000/v1."
        )
    return url.rstrip("/")


def _checked_variable(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise ConfigError(  # not shown: it may well be the key
            "api_key_env must be the name of an environment variable in capitals, such as OPENAI_API_KEY, got "
            "something else. Never write the key itself into a config."
        )
    return name


def _positive(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be above 0, got {value}.")
    return value
