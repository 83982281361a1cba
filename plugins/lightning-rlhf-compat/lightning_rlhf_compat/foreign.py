"""What the four libraries have in common: a function that is loaded by its path, and what it returned as numbers."""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning_rlhf import RewardFunction
from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf_compat.calling import Parameters, outcomes
from lightning_rlhf_compat.loading import load_function

__all__ = ["Batch", "ForeignReward"]

_LOADED = ("_function", "_parameters", "_tokenizer")


class Batch:
    """Responses with their prompts and columns, one entry per row.

    Args:
        prompts: as rendered for the policy.
        responses: without special and stop tokens.
        columns: the rows' fields and the reserved ones.
    """

    RESERVED = ("messages", "response_tokens", "stopped")

    def __init__(self, prompts: Sequence[str], responses: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> None:
        self.prompts = list(prompts)
        self.responses = list(responses)
        self.columns = columns

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def fields(self) -> dict[str, list[Any]]:
        """The rows' own fields."""
        return {name: list(values) for name, values in self.columns.items() if name not in self.RESERVED}

    def column(self, name: str, wanted_by: str) -> Sequence[Any]:
        """One field of all rows.

        Raises:
            ScorerError: the rows have no such field.
        """
        if name not in self.columns:
            raise ScorerError(
                f"{wanted_by} must get the column {name!r}, got {', '.join(sorted(self.columns)) or 'no column'}. "
                "Add the field to the rows of the data, or rename one with `columns` of the data source."
            )
        return self.columns[name]

    def responses_as_sampled(self) -> list[str]:
        """The responses with the text of the stop token that ended them."""
        tokens = self.columns.get("response_tokens", [[]] * len(self))
        stopped = self.columns.get("stopped", [False] * len(self))
        return [
            response + row[-1] if ended and row else response
            for response, row, ended in zip(self.responses, tokens, stopped, strict=True)
        ]

    def place(self, row: int) -> str:
        """Prompt and response of a row, for an error message."""
        return f"prompt: {_shortened(self.prompts[row])}, response: {_shortened(self.responses[row])}"


class ForeignReward(RewardFunction):
    """A function written for another library.

    Args:
        path: `module:name` or `path/to/file.py:name`.
        keywords: further keyword arguments of every call.
        tokenizer: directory or hub id of the tokenizer to hand to the function, or null.
    """

    library: str
    """The library's name, for messages."""

    def __init__(self, path: str, keywords: dict[str, Any] | None = None, tokenizer: str | None = None) -> None:
        self.path = path
        self.keywords = dict(keywords or {})
        self.tokenizer = tokenizer
        self._load()

    def _load(self) -> None:
        self._function = load_function(self.path)
        self._parameters = Parameters.of(self._function)
        self._tokenizer = None if self.tokenizer is None else _loaded_tokenizer(self.tokenizer)
        unknown = sorted(self.keywords.keys() - self._parameters.accepted(self.keywords).keys())
        if unknown:
            raise ConfigError(
                f"keywords must name arguments of {self.subject}, got {', '.join(unknown)}; it takes "
                f"{', '.join(self._parameters.named) or 'none by name'}."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the function, which a pickle could not find again in a file: it is loaded anew by its path."""
        return {name: value for name, value in self.__dict__.items() if name not in _LOADED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the function again."""
        self.__dict__.update(state)
        self._load()

    @property
    def subject(self) -> str:
        """The function, for messages."""
        return f"the {self.library} function {self.path}"

    def require(self, batch: Batch, given: Sequence[str]) -> None:
        """Refuses rows that lack what the function cannot be called without.

        Raises:
            ScorerError: names the missing column.
        """
        for name in self._parameters.missing([*given, *self.keywords]):
            batch.column(name, self.subject)

    def call(self, batch: Batch, calls: Mapping[int, Callable[[], Any]]) -> list[Any]:
        """What each call of the function returned.

        Args:
            batch: all rows.
            calls: by the first row that the call is about.

        Raises:
            ScorerError: a call raised; names function, line, prompt and response.
        """
        returned = outcomes(list(calls.values()))
        for row, value in zip(calls, returned, strict=True):
            if isinstance(value, Exception):
                raise ScorerError(
                    f"{self.subject} must return scores, got {type(value).__name__}: {value}{self._line(value)}. "
                    f"{self.advice(value)}{batch.place(row)}"
                ) from value
        return returned

    def advice(self, error: Exception) -> str:
        """A sentence, with a space behind it, on what an exception of the function probably means; or nothing."""
        return ""

    def bound(self, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """A call of the function, still to be made; `keywords` stand above what is given."""
        return partial(self._function, *args, **{**kwargs, **self.keywords})

    def entries(self, batch: Batch, returned: Any, rows: Sequence[int]) -> list[Any]:
        """What one call returned, as one entry for each of its rows.

        Args:
            batch: all rows.
            returned: a list, tuple, array or tensor.
            rows: those that the call was about.

        Raises:
            ScorerError: there is another number of entries.
        """
        entries = _plain(returned)
        if len(rows) == 1 and isinstance(entries, int | float):
            return [entries]  # a tensor without an axis
        if not isinstance(entries, list) or len(entries) != len(rows):
            number = len(entries) if isinstance(entries, list) else f"{returned!r:.80}"
            raise ScorerError(
                f"{self.subject} must return one score per response, got {number} for {len(rows)} responses. "
                f"{batch.place(rows[0])}"
            )
        return [_plain(entry) for entry in entries]

    def number(self, batch: Batch, entry: Any, row: int) -> float:
        """A score as a number; of a list of one, such as a row of a column vector, that one.

        Raises:
            ScorerError: it is none, or not finite.
        """
        entry = _plain(entry)
        if isinstance(entry, list) and len(entry) == 1:
            entry = entry[0]
        number = float(entry) if isinstance(entry, int | float) else math.nan
        if not math.isfinite(number):
            raise ScorerError(
                f"a score of {self.subject} must be a finite number, got {entry!r:.80}. {batch.place(row)}"
            )
        return number

    def _line(self, error: Exception) -> str:
        """Where in the function's own file the exception arose."""
        code = getattr(self._function, "__code__", None)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if code is not None and frame.filename == code.co_filename]
        return f" (line {lines[-1]})" if lines else ""


def _plain(value: Any) -> Any:
    """Tensors, arrays and their scalars as Python lists and numbers; tuples as lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _loaded_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer  # not at the top: most functions want no tokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # files of the user's: they may fail in any way
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"tokenizer must be a directory or hub id that holds a tokenizer, got {name!r} "
            f"({type(error).__name__}: {reason:.200}). The `model/` of any run holds one."
        ) from error


def _shortened(text: str, length: int = 200) -> str:
    return repr(text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}")
