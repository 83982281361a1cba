"""State that a process shares among all its code, put back after a plug-in's import."""

import contextlib
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["kept_surroundings"]

_BLANKET = (Warning, UserWarning)


class _Part(NamedTuple):
    """One thing that code shares."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextlib.contextmanager
def kept_surroundings(moved: list[str]) -> Iterator[None]:
    """Inside, code may change what it likes; afterwards it is as it was.

    What libraries rightly add when they are imported stays: warning filters for messages of their own, entries of
    `sys.path`, environment variables that nobody had set.

    Args:
        moved: gets the names of what had to be put back.
    """
    before = [(part, part.read()) for part in _parts()]
    had_torch = "torch" in sys.modules
    try:
        yield
    finally:
        for part, value in before:
            if _differs(part.read(), value):
                part.write(value)
                moved.append(part.name)
        torch = sys.modules.get("torch")
        if not had_torch and torch is not None and torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
            moved.append("torch's default dtype")


def _parts() -> list[_Part]:
    environ = dict(os.environ)
    parts = [
        _Part("the working directory", _working_directory, os.chdir),
        _Part("the mask of file permissions", _umask, os.umask),
        _Part(
            "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)
        ),
        _Part("environment variables", lambda: {name: os.environ.get(name) for name in environ}, os.environ.update),
        _Part("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        _Part("Python's random numbers", random.getstate, random.setstate),
        _Part("the warnings that are shown", _blanket_filters, _without_other_blanket_filters),
    ]
    if threading.current_thread() is threading.main_thread():
        parts.append(_Part("signal handlers", _handlers, _set_handlers))
    if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "random"):
        parts.append(_Part("NumPy's random numbers", numpy.random.get_state, numpy.random.set_state))
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "get_rng_state"):
        parts += [
            _Part("torch's random numbers", lambda: torch.get_rng_state().tolist(), _set_torch_state),
            _Part("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
            _Part("torch's default device", torch.get_default_device, torch.set_default_device),
            _Part("whether torch records gradients", torch.is_grad_enabled, torch.set_grad_enabled),
        ]
    return parts


def _differs(now: Any, before: Any) -> bool:
    """Whether a state has changed; NumPy's holds an array."""
    return repr(now) != repr(before) or (isinstance(now, tuple) and any(map(_array_differs, now, before)))


def _array_differs(now: Any, before: Any) -> bool:
    return hasattr(now, "tobytes") and bool(now.tobytes() != before.tobytes())


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - what chdir takes
    except OSError:  # it is gone
        return None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _handlers() -> dict[int, Any]:
    """The handlers that Python knows; those of C code are None, and cannot be set."""
    found = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {number: handler for number, handler in found.items() if handler is not None}


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _blanket_filters() -> list[Any]:
    """The filters that show or hide everything."""
    return [entry for entry in warnings.filters if entry[1] is None and entry[2] in _BLANKET and entry[3] is None]


def _without_other_blanket_filters(before: list[Any]) -> None:
    new = [entry for entry in _blanket_filters() if entry not in before]
    warnings.filters[:] = [entry for entry in warnings.filters if entry not in new]  # type: ignore[index]
    gone = [entry for entry in before if entry not in warnings.filters]
    warnings.filters.extend(gone)  # type: ignore[attr-defined]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _set_torch_state(state: list[int]) -> None:
    torch = sys.modules["torch"]
    torch.set_rng_state(torch.tensor(state, dtype=torch.uint8))
