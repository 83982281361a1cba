"""The console script: reads the first word and hands over. Imports no torch; only the heavy commands do."""

import difflib
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, NoReturn, cast

from lightning_rlhf.errors import ConfigError, LightningRLHFError
from lightning_rlhf.plugin_system.reporting import PluginWarning
from lightning_rlhf.terminal import escaped
from lightning_rlhf.version import __version__

__all__ = ["KERNEL_CACHES", "main"]

Command = Callable[[list[str]], int | None]

KERNEL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""Environment of the commands, unless the user's says otherwise. On a CPU oneDNN compiles a kernel for each shape that
it meets, in half precision for every matrix product, and keeps 1,024 of them, hundreds of megabytes; rows of many
lengths are as fast with an eighth of that."""

_TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
_COMMANDS = (*_TRAINER_COMMANDS, "doctor", "plan", "inspect", "demo", "plugins")
_USER_ERROR = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141

_HELP = """\
usage: lightning-rlhf COMMAND [ARGUMENTS]

Supervised fine-tuning, reward models and PPO for language models, on PyTorch Lightning.

commands:
  fit         train; the stage stands in the config:  lightning-rlhf fit --config sft.yaml
  validate    the validation metrics of a checkpoint
  test        the same metrics on the test split
  predict     write predictions.jsonl: responses, or the scores of a reward model
  doctor      look at a run before it starts: tokens, template, rows, rewards, memory
  plan        what a run will take before it starts: parameters, peak memory by part, time
  inspect     one row as the model sees it
  demo        the whole recipe on a laptop, offline
  plugins     list, show and check what is installed, or start a plug-in of your own

options:
  --version   show the version and exit
  -h, --help  show this message and exit

`lightning-rlhf COMMAND --help` tells more about a command.
"""


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command line.

    Args:
        argv: the words after the program's name; None: those of this process. `sys.argv` is never edited, because the
            launcher of distributed training runs it again.

    Returns:
        The exit status: 2 for a user's mistake, 130 for an interrupt, 141 when nobody reads the output any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # the process is this command's own
        os.environ.update({name: value for name, value in KERNEL_CACHES.items() if name not in os.environ})
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        with _safe_messages():
            status = _run(words, import_module if argv is not None else _import_for_good)
            sys.stdout.flush()
            return status
    except LightningRLHFError as error:
        print(f"lightning-rlhf: error: {escaped(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("lightning-rlhf: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered must not fail again at exit
        return _BROKEN_PIPE


def _interrupt_once(number: int, frame: FrameType | None) -> NoReturn:
    """The first interrupt ends the process; those after it must not break off how it ends."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(words: list[str], imported: Callable[[str], ModuleType]) -> int | None:
    if not words:
        print(_HELP, end="", file=sys.stderr)
        return _USER_ERROR
    word = words[0]
    if word in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if word == "--version":
        print(f"lightning-rlhf {__version__}")
        return 0
    if word in _TRAINER_COMMANDS:
        return _command(imported, "lightning")(words)
    if word in _COMMANDS:
        return _command(imported, word)(words[1:])
    near = difflib.get_close_matches(word, _COMMANDS, n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See lightning-rlhf --help."
    raise ConfigError(f"the command must be one of {', '.join(_COMMANDS)}, got {word!r}. {hint}")


def _command(imported: Callable[[str], ModuleType], name: str) -> Command:
    run = cast(Command, imported(f"lightning_rlhf.cli.{name}").run)
    _make_warnings_safe()
    return run


def _import_for_good(name: str) -> ModuleType:
    """Imports a module whose objects live as long as the process: the collector of cycles leaves them alone.

    It would walk through the million objects of torch and its kind again and again: while they are imported, while the
    command works and once more at the end.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        module = import_module(name)
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
    return module


@contextmanager
def _safe_messages() -> Iterator[None]:
    """Inside, no warning and no log line acts on the terminal: both may hold what files, models and plug-ins say."""
    format_before, made = warnings.formatwarning, logging.getLogRecordFactory()

    def escaped_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made(*args, **kwargs)
        if isinstance(record.msg, str):
            try:
                record.msg, record.args = escaped(record.getMessage()), ()
            except (TypeError, ValueError):  # arguments that do not fit: logging tells of them itself
                return record
        return record

    _make_warnings_safe()
    logging.setLogRecordFactory(escaped_record)
    try:
        yield
    finally:
        warnings.formatwarning = format_before
        logging.setLogRecordFactory(made)


def _make_warnings_safe() -> None:
    """Wraps the formatter of this moment; Lightning brings its own when it is imported."""
    formatted = warnings.formatwarning

    def escaped_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        if issubclass(category, PluginWarning):  # the line of our own code that warns helps nobody
            return f"lightning-rlhf: warning: {escaped(message)}\n"
        return escaped(formatted(message, category, *place, **more))

    warnings.formatwarning = escaped_warning
