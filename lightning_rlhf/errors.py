"""The exception tree.

Everything that a user can cause derives from `LightningRLHFError`; the command line prints its message and
exits with code 2, where no other is named here. Messages follow one form: `{subject} must {rule}, got {value}.` and
what to do about it.

    LightningRLHFError
    ├── ConfigError             an argument, or a combination of arguments, that cannot work
    ├── RecordError             a record that breaks a rule of its class
    ├── DataError               a source, file or split that cannot be read
    │   ├── BadRowError         one row: names file, line and rule
    │   └── RecordKindError     records of a kind that another data module reads
    ├── TemplateError           template and tokenizer do not fit together
    ├── ModelError              a model, tokenizer or head that cannot be loaded, saved or used
    ├── ScorerError             a reward function or reward model that returned something unusable
    ├── RunDirectoryError       an output directory that cannot be used
    ├── StorageError            a disk that is full, a file that must not be written or that is gone
    ├── DivergenceError         a loss, gradient or weight that is no finite number: exit code 3
    └── PluginError             a plug-in with a fault
        └── UnknownComponentError   a name that nobody offers, or that was set aside
"""

from typing import ClassVar

__all__ = [
    "BadRowError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "LightningRLHFError",
    "ModelError",
    "PluginError",
    "RecordError",
    "RecordKindError",
    "RunDirectoryError",
    "ScorerError",
    "StorageError",
    "TemplateError",
    "UnknownComponentError",
    "shown",
]


class LightningRLHFError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code: ClassVar[int] = 2
    """What the command line's process ends with."""


class ConfigError(LightningRLHFError):
    """An argument, or a combination of arguments, that cannot work."""


class RecordError(LightningRLHFError, ValueError):
    """A record that breaks a rule of its class."""


class DataError(LightningRLHFError):
    """A source, a file or a split that cannot be read."""


class BadRowError(DataError):
    """One row that breaks a rule.

    Args:
        rule: what is wrong and what to do, one sentence.
        origin: file, hub name or component that the row came from.
        line: 1-based line (jsonl, csv) or row (parquet, json, hub) in it.
    """

    def __init__(self, rule: str, *, origin: str = "", line: int | None = None) -> None:
        self.rule = rule
        self.origin = origin
        self.line = line
        place = origin if line is None else f"{origin}:{line}"
        super().__init__(f"{place}: {rule}" if place else rule)


class RecordKindError(DataError):
    """Records of a kind that another data module reads."""


class TemplateError(LightningRLHFError):
    """A template and a tokenizer that do not fit together."""


class ModelError(LightningRLHFError):
    """A model, tokenizer or head that cannot be loaded, saved or used."""


class ScorerError(LightningRLHFError):
    """A reward function or reward model that returned something unusable."""


class RunDirectoryError(LightningRLHFError):
    """An output directory that cannot be used for this run."""


class StorageError(LightningRLHFError):
    """A disk that is full, a file that must not be written, or one that is gone."""


class DivergenceError(LightningRLHFError):
    """A loss, a gradient or a weight that is no finite number."""

    exit_code = 3


class PluginError(LightningRLHFError):
    """A plug-in with a fault."""


class UnknownComponentError(PluginError):
    """A component name that nobody offers, or whose plug-in was set aside."""


def shown(value: object, length: int = 80) -> str:
    """A value of a user's as a message shows it: in one line, cut off where it is long.

    >>> shown(["a", None]), shown("x" * 1000, length=10)
    ("['a', None]", "'xxxxxx...")
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # lists in lists without end; a number of more digits than Python prints
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= length else f"{text[: length - 3]}..."
