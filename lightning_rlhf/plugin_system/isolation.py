"""Running a plug-in's code so that it cannot block on input, write into our output, end the process or move it."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.surroundings import kept_surroundings

__all__ = ["guarded"]

Result = TypeVar("Result")


def guarded(action: Callable[[], Result], doing: str, moved: list[str] | None = None) -> Result:
    """The result of the action, run with standard input closed and standard output captured.

    Standard error is left alone: warnings and the message of a crash belong there, and log handlers that a library
    makes while it is imported keep a reference to it. What the process shares, its working directory and its random
    generators for two, is put back.

    Args:
        action: imports or calls something of a plug-in.
        doing: what the action does, the subject of the error: `importing 'package.module'`.
        moved: gets the names of what was put back; None: nobody asks.

    Raises:
        PluginError: the action raised (`SystemExit` included), read standard input or printed.
    """
    reads, prints = _ClosedInput(), _CapturedOutput(sys.stdout)
    try:
        with (
            kept_surroundings([] if moved is None else moved),
            _replaced_descriptors(prints),
            contextlib.redirect_stdout(prints),
            _replaced_stdin(reads),
        ):
            result = action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if reads.was_read:
            raise PluginError(f"{doing} must not read standard input, which it did.") from error
        if isinstance(error, PluginError):
            raise
        raise PluginError(f"{doing} raised {_described(error)}.") from error
    if reads.was_read:
        raise PluginError(f"{doing} must not read standard input, which it did.")
    if prints.text:
        raise PluginError(f"{doing} must not print, got {_shown(prints.text)}.")
    return result


class _ClosedInput(io.TextIOBase):
    """A standard input that refuses, and remembers that it was asked."""

    def __init__(self) -> None:
        self.was_read = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> NoReturn:
        self.was_read = True
        raise OSError("standard input is closed while plug-ins are loaded")

    def readline(self, size: int | None = -1, /) -> NoReturn:
        self.read(size)

    def __next__(self) -> NoReturn:
        self.read()


class _CapturedOutput:
    """Keeps what is written until it is released, then passes on.

    It passes on because whoever took a reference to `sys.stdout` meanwhile, a log handler for one, keeps this object.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._released = False
        self.text = ""

    def write(self, text: str) -> int:
        if not self._released:
            self.text += text
        elif self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def release(self, more: str) -> None:
        self.text += more
        self._released = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _replaced_stdin(stream: io.TextIOBase) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def _replaced_descriptors(output: _CapturedOutput) -> Iterator[None]:
    """Descriptors 0 and 1 on the null device and a file: child processes and C code use them past `sys`."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryFile() as sink:
        output.flush()
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123  (a descriptor is wanted, not a path)
            _redirect(0, nothing.fileno(), stack)
        _redirect(1, sink.fileno(), stack)
        try:
            yield
        finally:
            output.flush()
            stack.close()
            sink.seek(0)
            output.release(sink.read().decode(errors="replace"))


def _redirect(descriptor: int, target: int, stack: contextlib.ExitStack) -> None:
    try:
        saved = os.dup(descriptor)
    except OSError:  # closed already, as under a service manager: nothing to protect
        return
    stack.callback(os.close, saved)
    stack.callback(os.dup2, saved, descriptor)
    os.dup2(target, descriptor)


def _described(error: BaseException) -> str:
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _shown(text: str) -> str:
    line = repr(text.strip())
    return line if len(line) <= 80 else f"{line[:77]}..."
