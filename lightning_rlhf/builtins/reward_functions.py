"""Built-in reward functions: scores that need no model."""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from lightning_rlhf.arguments import require_at_least, require_finite, require_one_of, require_positive
from lightning_rlhf.errors import ConfigError, ScorerError, shown
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.registry import check_importable

__all__ = ["FunctionReward", "LengthReward", "RegexReward", "RepetitionReward", "StopTokenReward"]

Unit = Literal["tokens", "words", "characters"]


class LengthReward(RewardFunction):
    """How close the length of a response is to what is wanted: 0 there, `-distance / scale` elsewhere.

    Without target, minimum and maximum, longer is better: `length / scale`.

    Args:
        target: the length wanted.
        minimum: the shortest length without penalty, instead of a target.
        maximum: the longest length without penalty, instead of a target.
        scale: the difference in length that changes the score by 1.
        unit: tokens (the stop token is not counted), words (between white space) or characters.
    """

    def __init__(
        self,
        target: int | None = None,
        minimum: int | None = None,
        maximum: int | None = None,
        scale: float = 100.0,
        unit: Unit = "tokens",
    ) -> None:
        if target is not None and (minimum is not None or maximum is not None):
            raise ConfigError("target must stand alone, got a minimum or maximum beside it. Give one or the other.")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ConfigError(f"minimum must be at most maximum, got {minimum} and {maximum}.")
        require_positive(scale=scale)
        require_one_of(Unit, "unit", unit)
        self.target = target
        self.minimum = minimum
        self.maximum = maximum
        self.scale = scale
        self.unit = unit

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        return [self._score(len(parts)) for parts in _parts(responses, self.unit, columns)]

    def _score(self, length: int) -> float:
        shortest = self.minimum if self.target is None else self.target
        longest = self.maximum if self.target is None else self.target
        if shortest is None and longest is None:
            return length / self.scale
        below = 0 if shortest is None else max(shortest - length, 0)
        above = 0 if longest is None else max(length - longest, 0)
        return -(below + above) / self.scale


class StopTokenReward(RewardFunction):
    """Whether the response ended by itself.

    Args:
        stopped: the score of a response that ends in a stop token.
        unstopped: the score of one that was cut off.
    """

    def __init__(self, stopped: float = 0.0, unstopped: float = -1.0) -> None:
        require_finite({"stopped": stopped, "unstopped": unstopped})
        self.stopped = stopped
        self.unstopped = unstopped

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        return [self.stopped if stopped else self.unstopped for stopped in _column(columns, "stopped", len(responses))]


class RegexReward(RewardFunction):
    r"""Whether a regular expression is found in the response, or finds there what a column of the row holds.

    With a column, what the last match found (its first group, if it has one) is compared with what the expression finds
    in the column, or with the whole column where it finds nothing: `pattern: "#### (.+)"` with `column: answer` checks
    the result of a sum.

    Args:
        pattern: the expression, in Python's syntax; `(?i)` at its start ignores case.
        match: the score of a response with a match.
        no_match: the score of one without.
        column: the row's field to compare with; null asks for a match alone.
    """

    example = MappingProxyType({"pattern": r"(?i)\bplease\b"})

    def __init__(self, pattern: str, match: float = 1.0, no_match: float = 0.0, column: str | None = None) -> None:
        try:
            self._regex = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"pattern must be a regular expression, got {pattern!r} ({error}).") from None
        require_finite({"match": match, "no_match": no_match})
        self.pattern = pattern
        self.match = match
        self.no_match = no_match
        self.column = column

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        if self.column is None:
            return [self._score(self._regex.search(response) is not None) for response in responses]
        wanted = _column(columns, self.column, len(responses))
        return [self._score(self._agrees(response, value)) for response, value in zip(responses, wanted, strict=True)]

    def _score(self, matched: bool) -> float:
        return self.match if matched else self.no_match

    def _agrees(self, response: str, value: object) -> bool:
        found = self._found(response)
        wanted = self._found(str(value))
        return found is not None and found == (str(value).strip() if wanted is None else wanted)

    def _found(self, text: str) -> str | None:
        matches = list(self._regex.finditer(text))
        if not matches:
            return None
        group = matches[-1].group(1 if self._regex.groups else 0)
        return None if group is None else group.strip()


class RepetitionReward(RewardFunction):
    """A penalty for saying things again: `scale * (distinct n-grams / n-grams - 1)`; 0 when none is repeated.

    Args:
        ngram_size: how many units are compared at a time. A response that is shorter has nothing to repeat.
        scale: the size of the penalty for nothing but repetition.
        unit: tokens (the stop token is left out), words (between white space) or characters.
    """

    def __init__(self, ngram_size: int = 3, scale: float = 1.0, unit: Unit = "tokens") -> None:
        require_at_least(1, ngram_size=ngram_size)
        require_positive(scale=scale)
        require_one_of(Unit, "unit", unit)
        self.ngram_size = ngram_size
        self.scale = scale
        self.unit = unit

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        return [self._score(parts) for parts in _parts(responses, self.unit, columns)]

    def _score(self, parts: Sequence[str]) -> float:
        ngrams = [tuple(parts[start : start + self.ngram_size]) for start in range(len(parts) - self.ngram_size + 1)]
        return self.scale * (len(set(ngrams)) / len(ngrams) - 1) if ngrams else 0.0


class FunctionReward(RewardFunction):
    """A Python function of your own, called as `function(prompts, responses, **columns)`.

    It returns a number per response, None where it does not apply. Columns reach it by name; one without `**` gets
    those that it names. An `async def` is awaited beside the other reward functions that are.

    Args:
        path: module and name, such as `my_rewards:politeness`; a module beside the config is found.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._function = _function_at(path)
        try:
            parameters = inspect.signature(self._function).parameters
        except (TypeError, ValueError):  # some callables written in C do not tell
            parameters = {}  # type: ignore[assignment]
        self._takes_all = not parameters or any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        named = [parameter for parameter in list(parameters.values())[2:] if parameter.kind in by_name]
        self._named = [parameter.name for parameter in named]
        self._required = [parameter.name for parameter in named if parameter.default is inspect.Parameter.empty]

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> Any:
        """What the function returns."""
        for name in self._required:
            _column(columns, name, len(responses), f"function {self.path}")
        given = columns if self._takes_all else {name: columns[name] for name in self._named if name in columns}
        return self._function(prompts, responses, **given)


def _function_at(path: str) -> Callable[..., Any]:
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"the path of a reward function must be 'module:name', got {path!r}.")
    if module_name.endswith(".py"):
        module = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(
            f"the path of a reward function must name a module, not a file, got {path!r}. "
            f"Did you mean '{module}:{name}'?"
        )
    if any(part.startswith("__") for part in name.split(".")):
        raise ConfigError(
            f"the path of a reward function must name a function, got {path!r}, which reaches into Python's own "
            "names. Write a function of your own."
        )
    check_importable(f"{module_name}.{name}")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module of the user's: it may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"the module of a reward function must be importable, got {path!r} ({reason}). Install it, or start in the "
            "folder that holds it."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, vars(found))
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"the path of a reward function must name one of {module_name}, got {name!r}.{hint}")
        found = getattr(found, part)
    if isinstance(found, type):
        raise ConfigError(
            f"the path of a reward function must name a function, got the class {path!r}. Name a RewardFunction class "
            "in the config by its class path instead."
        )
    if not callable(found):
        raise ConfigError(f"the path of a reward function must name a function, got {shown(found)} at {path!r}.")
    return found  # type: ignore[no-any-return]


def _parts(responses: Sequence[str], unit: Unit, columns: Mapping[str, Sequence[Any]]) -> list[Sequence[str]]:
    """The units that each response is made of."""
    if unit == "words":
        return [response.split() for response in responses]
    if unit == "characters":
        return list(responses)
    tokens = _column(columns, "response_tokens", len(responses))
    stopped = columns.get("stopped", [False] * len(responses))
    return [list(row)[:-1] if ended else list(row) for row, ended in zip(tokens, stopped, strict=True)]


def _column(
    columns: Mapping[str, Sequence[Any]], name: str, length: int, subject: str = "this reward function"
) -> Sequence[Any]:
    if name not in columns:
        raise ScorerError(
            f"{subject} must get the column {name!r}, got {', '.join(sorted(columns)) or 'no column'}. Add the field "
            "to the rows of the data, or rename one with `columns`."
        )
    if len(columns[name]) != length:
        raise ScorerError(f"column {name!r} must have one entry per response ({length}), got {len(columns[name])}.")
    return columns[name]
