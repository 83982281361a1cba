"""Refusals of Lightning's own parts: strategies, plug-ins, callbacks and loggers that do not fit a run or a machine.

They raise whatever they like. What they raise of the user's arguments is a `ConfigError`; what breaks while a run is
under way is left as it is.
"""

import re
from traceback import walk_tb

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.spike import TrainingSpikeException

from lightning_rlhf.cli.explain import without_wrapping
from lightning_rlhf.errors import ConfigError, DivergenceError, LightningRLHFError

__all__ = ["refusal_of_parts", "refusal_of_run"]

_CALLBACKS = "lightning.pytorch.callbacks."
_READ_ARGUMENTS = (_CALLBACKS, "lightning.pytorch.loops.fit_loop", "lightning.pytorch.trainer.connectors.")
_LOOPS = "lightning.pytorch.loops."
_OTHER_KIND = re.compile(r"Import path \S+ does not |Expected an? ")
"""What the parser says of the types of a union that were not meant."""
_HEADING = "Problem with given class_path "


def refusal_of_parts(error: Exception) -> BaseException | None:
    """What to say of an error that was raised while the parts of a run were built.

    Args:
        error: of the parser, around what a constructor raised.

    Returns:
        A `ConfigError` where a part cannot be had or refuses its arguments, and the constructor's own error where that
        was hidden behind the parser's words; None: there is nothing to say.
    """
    cause = without_wrapping(error)
    if missing := _missing_package(error):
        return ConfigError(f"what the config names must be installed: {missing}")
    if _OTHER_KIND.match(str(cause)) and (reason := _reason_among_alternatives(str(error))):
        # the parser keeps the first alternative's error alone, and of the others their texts
        return ConfigError(f"what the config names must be installed and work on this machine: {reason}")
    if not isinstance(cause, LightningRLHFError) and _is_fault(cause) and _place(cause).startswith("lightning."):
        return ConfigError(f"the trainer's parts must be given what they take: {_said(cause)}")
    return cause if isinstance(error, ImportError | ValueError) else None


def refusal_of_run(error: BaseException) -> LightningRLHFError | None:
    """What to say of an error that a run ended with; None: it is neither the arguments' nor a callback's verdict.

    Lightning reads arguments in callbacks, which fail in any way where they do not fit the module, inside of torch as
    well; in its connectors; and when strategy and precision are set up, before any loop has begun.
    """
    if isinstance(error, TrainingSpikeException):
        return DivergenceError(f"the loss must have no spikes where SpikeDetection looks for them, got one: {error}.")
    frames = _modules(error)
    own = [name for name in frames if not name.startswith(("torch.", "lightning.fabric."))] or [""]
    reads = isinstance(error, ValueError | RuntimeError) and frames[-1].startswith(_READ_ARGUMENTS)
    sets_up = frames[-1].startswith("lightning.") and not any(name.startswith(_LOOPS) for name in frames)
    refuses = _is_fault(error) and (reads or sets_up or own[-1].startswith(_CALLBACKS))
    if isinstance(error, MisconfigurationException) or refuses:
        return ConfigError(f"the trainer's arguments must fit the stage and its data: {_said(error)}")
    return None


def _is_fault(error: BaseException) -> bool:
    """Whether it may be the arguments' fault at all."""
    others = OSError | MemoryError | torch.OutOfMemoryError | LightningRLHFError
    return isinstance(error, Exception) and not isinstance(error, others)


def _modules(error: BaseException) -> list[str]:
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)] or [""]


def _place(error: BaseException) -> str:
    """The module that raised it."""
    return _modules(error)[-1]


def _said(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


def _missing_package(error: BaseException) -> ModuleNotFoundError | None:
    """The package that a class wanted, of an error that the parser made after trying a union's other types."""
    seen: list[BaseException] = [error]
    for each in seen:
        if isinstance(each, ModuleNotFoundError):
            return each
        seen += [inner for inner in (each.__cause__, each.__context__) if inner is not None and inner not in seen]
    return None


def _reason_among_alternatives(report: str) -> str:
    """The line of the alternative that was meant: it alone was tried, and says what a constructor raised."""
    errors = report.partition("\nErrors:\n")[2].partition("\nGiven value type:")[0]
    lines = [line.strip().removeprefix("- ") for line in errors.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_HEADING) and not _OTHER_KIND.match(line))
