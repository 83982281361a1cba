"""Reward functions of plug-ins as scorers: what they are given, and what may go wrong with what they give back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_rlhf.errors import ScorerError
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.rollout.responses import Responses
from lightning_rlhf.rollout.scoring import Scorer
from lightning_rlhf.rollout.time_limit import TimeLimitError, time_limit

__all__ = ["RewardFunctionScorer"]

_SECONDS_FOR_A_CULPRIT = 60.0
"""Limit of each call that looks for the response at which a function failed."""
_GREATEST = torch.finfo(torch.float32).max
RESERVED_COLUMNS = ("messages", "prompts", "response_tokens", "responses", "stopped")


class RewardFunctionScorer(Scorer):
    """A plug-in's reward function.

    The function gets the rows' own fields as columns, None where a row lacks a field. A field with a reserved name is
    not passed on; a warning says so.

    Args:
        function: the component.
        name: what its scores are logged under.
        batch_size: responses per call; null passes all at once.
        timeout_s: seconds that a call may take; null sets no limit.
        plugin: the distribution that it comes from, for messages.
    """

    def __init__(
        self,
        function: RewardFunction,
        name: str,
        *,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        plugin: str = "",
    ) -> None:
        super().__init__(name)
        self.function = function
        self.batch_size = batch_size
        self.timeout_s = timeout_s
        self._subject = f"reward function {name!r}{f' of plug-in {plugin}' if plugin else ''}"
        self._hidden: set[str] = set()

    def score(self, responses: Responses) -> Tensor:
        """Calls the function and checks what comes back."""
        size = self.batch_size or len(responses)
        chunks = [range(start, min(start + size, len(responses))) for start in range(0, len(responses), size)]
        scores = [self._scored(responses.select(chunk)) for chunk in chunks]
        if any(chunk.ndim == 2 for chunk in scores) and any(chunk.ndim == 1 for chunk in scores):
            raise ScorerError(f"{self._subject} must score either every response or every token, got both.")
        return torch.cat(scores)

    def _scored(self, responses: Responses) -> Tensor:
        returned = self._returned(responses)
        scores = returned.tolist() if hasattr(returned, "tolist") else returned
        if not isinstance(scores, Sequence) or isinstance(scores, str | bytes) or len(scores) != len(responses):
            number = len(scores) if isinstance(scores, Sequence) else type(returned).__name__
            raise ScorerError(
                f"{self._subject} must return one score per response, got {number} "
                f"for {len(responses)} responses. {_place(responses, 0)}"
            )
        per_token = [isinstance(score, Sequence) and not isinstance(score, str) for score in scores]
        if not any(per_token):
            numbers = [self._number(score, responses, row) for row, score in enumerate(scores)]
            return torch.tensor(numbers, dtype=torch.float32)
        return self._token_scores(scores, responses)

    def _returned(self, responses: Responses) -> Any:
        """What the function returns, its own errors and a call that takes too long as one message."""
        columns = self._columns(responses)
        too_long = f"{self._subject} must return within {self.timeout_s} s (reward_timeout_s), got no answer"
        whose = f"{_number_of(responses)}{_place(responses, 0)}"
        try:
            with time_limit(self.timeout_s, lambda: f"{too_long}. {whose}."):
                return self.function(list(responses.prompts), list(responses.responses), **columns)
        except ScorerError as error:  # the component's own message: it knows which response is meant
            raise ScorerError(f"{self._subject}: {error}") from error
        except TimeLimitError as error:
            raise ScorerError(f"{too_long}: {error}. {whose}.") from error
        except SIGTERMException:
            raise
        except (Exception, SystemExit) as error:
            row = self._culprit(responses, error)
            raise ScorerError(
                f"{self._subject} must return scores, got {type(error).__name__}: {error}. {_place(responses, row)}."
            ) from error

    def _culprit(self, responses: Responses, error: BaseException) -> int:
        """The row that raises this kind of error by itself, too; the first one where none does."""
        for row in range(len(responses) if len(responses) > 1 else 0):
            place = f"{self._subject} must return, got no answer. {_place(responses, row)}."
            alone = responses.select([row])
            try:
                with time_limit(_SECONDS_FOR_A_CULPRIT, lambda place=place: place):  # type: ignore[misc]
                    self.function(list(alone.prompts), list(alone.responses), **self._columns(alone))
            except type(error):
                return row
            except (Exception, SystemExit):
                break
        return 0

    def _columns(self, responses: Responses) -> dict[str, list[Any]]:
        names = {name: None for columns in responses.columns for name in columns}  # a set that keeps the order
        hidden = names.keys() & set(RESERVED_COLUMNS) - self._hidden
        if hidden:
            self._hidden |= hidden
            rank_zero_warn(
                f"reward function {self.name!r} does not get the rows' own {', '.join(sorted(hidden))}: the names are "
                "reserved. Rename the field with `columns` of the data source if the function needs it."
            )
        columns = {name: [row.get(name) for row in responses.columns] for name in names if name not in RESERVED_COLUMNS}
        columns["messages"] = list(responses.messages)
        columns["response_tokens"] = [list(tokens) for tokens in responses.response_tokens]
        columns["stopped"] = responses.stopped.tolist()
        return columns

    def _token_scores(self, scores: Sequence[Any], responses: Responses) -> Tensor:
        table = torch.zeros(responses.completion_mask.shape, dtype=torch.float32)
        for row, tokens in enumerate(responses.response_tokens):
            row_scores = scores[row].tolist() if hasattr(scores[row], "tolist") else scores[row]
            if not isinstance(row_scores, Sequence) or len(row_scores) != len(tokens):
                number = len(row_scores) if isinstance(row_scores, Sequence) else "a single number"
                raise ScorerError(
                    f"{self._subject} must return one score for each of the {len(tokens)} "
                    f"response_tokens, got {number}. {_place(responses, row)}"
                )
            numbers = [self._number(score, responses, row) for score in row_scores]
            table[row, : len(tokens)] = torch.tensor(numbers, dtype=torch.float32)
        return table

    def _number(self, score: Any, responses: Responses, row: int) -> float:
        try:
            number = float(score)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= _GREATEST or isinstance(score, str):  # nan is not, either
            shown = f"{score!r:.40}"
            if math.isfinite(number) and abs(number) > _GREATEST:
                shown += f" (fp32 ends at {_GREATEST:.1e})"
            raise ScorerError(
                f"a score of {self._subject} must be a finite number, got {shown}. {_place(responses, row)}"
            )
        return number


def _place(responses: Responses, row: int) -> str:
    """Prompt and response of a row, for an error message."""
    return f"prompt: {_shortened(responses.prompts[row])}, response: {_shortened(responses.responses[row])}"


def _number_of(responses: Responses) -> str:
    """How many responses a call had, where its message shows the first one."""
    return f"It was given {len(responses)} responses, the first with the " if len(responses) > 1 else ""


def _shortened(text: str, length: int = 200) -> str:
    return repr(text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}")
