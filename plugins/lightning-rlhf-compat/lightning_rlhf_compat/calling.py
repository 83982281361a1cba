"""Which arguments a function takes, and calling it, whether it is async or not."""

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Parameters", "outcomes"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a function takes.

    Args:
        positional: names that can be given by position, in order.
        named: names that can be given by name.
        required: names without a default.
        takes_any_position: it has `*args`.
        takes_any_name: it has `**kwargs`.
    """

    positional: tuple[str, ...]
    named: tuple[str, ...]
    required: tuple[str, ...]
    takes_any_position: bool
    takes_any_name: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Parameters":
        """Those of a function; one that does not tell, as some written in C, takes everything."""
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return cls((), (), (), takes_any_position=True, takes_any_name=True)
        by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(
            tuple(p.name for p in by_position),
            tuple(p.name for p in by_name),
            tuple(dict.fromkeys(p.name for p in [*by_position, *by_name] if p.default is p.empty)),
            takes_any_position=any(p.kind is p.VAR_POSITIONAL for p in parameters),
            takes_any_name=any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def accepted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the arguments that the function takes by name."""
        return {name: value for name, value in arguments.items() if self.takes_any_name or name in self.named}

    def missing(self, given: Iterable[str]) -> list[str]:
        """What the function cannot be called without and is not among the given names."""
        return [name for name in self.required if name not in set(given)]


def outcomes(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call returned, or the exception that it raised, in their order; async ones run at the same time.

    Those run on a loop of its own thread, one for the whole process: in a notebook the caller's thread has a running
    loop, and clients that a function keeps between calls belong to the loop that they were made on.

    Args:
        calls: each is made once, in this thread.
    """
    found = [_outcome(call) for call in calls]
    waiting = [index for index, value in enumerate(found) if inspect.isawaitable(value)]
    if waiting:
        awaited = _run(_gathered([found[index] for index in waiting]))
        for index, value in zip(waiting, awaited, strict=True):
            found[index] = value
    return found


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


async def _gathered(awaitables: Sequence[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)


def _run(coroutine: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid()))
    try:
        return future.result()
    except BaseException:  # an interrupt of this thread: the other one must not go on asking
        future.cancel()
        raise


@functools.cache
def _loop(process_id: int) -> asyncio.AbstractEventLoop:
    """The loop of this process: a forked child has the parent's memory, but not its threads."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="lightning-rlhf-compat", daemon=True).start()
    return loop
