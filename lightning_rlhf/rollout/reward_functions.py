"""Reward functions of plug-ins as scorers: what they are given, and what may go wrong with what they give back."""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_rlhf.errors import ScorerError
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.rollout.event_loop import Raised, run_together
from lightning_rlhf.rollout.responses import Responses
from lightning_rlhf.rollout.scoring import PendingScores, Scorer, place_of
from lightning_rlhf.rollout.time_limit import TimeLimitError, time_limit

__all__ = ["RewardFunctionScorer"]

_SECONDS_FOR_A_CULPRIT = 60.0
"""Limit of each call that looks for the response at which a function failed."""
_GREATEST = torch.finfo(torch.float32).max
RESERVED_COLUMNS = ("messages", "prefilled", "prompts", "response_tokens", "responses", "stopped")


class RewardFunctionScorer(Scorer):
    """A plug-in's reward function.

    The function gets the rows' own fields as columns, None where a row lacks a field. A field with a reserved name is
    not passed on; a warning says so. It may be a coroutine, which is awaited beside those of other scorers.

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
        """Calls the function, awaits it where it is a coroutine, and checks what comes back."""
        begun = self.begin(responses)
        if isinstance(begun, Tensor):
            return begun
        return begun.finish(run_together(begun.awaitables, begun.timeout_s))

    def begin(self, responses: Responses) -> Tensor | PendingScores:
        """Calls the function."""
        size = self.batch_size or len(responses)
        chunks = [
            responses.select(range(start, min(start + size, len(responses))))
            for start in range(0, len(responses), size)
        ]
        returned = [self._called(chunk) for chunk in chunks]
        waiting = [answer for answer in returned if inspect.isawaitable(answer)]
        if not waiting:
            return self._joined(returned, chunks)

        def finish(outcomes: list[Any]) -> Tensor:
            rest = iter(outcomes)
            return self._joined([next(rest) if inspect.isawaitable(one) else one for one in returned], chunks)

        return PendingScores(waiting, self.timeout_s, finish)

    def _joined(self, returned: Sequence[Any], chunks: Sequence[Responses]) -> Tensor:
        scores = [self._scored(answer, chunk) for answer, chunk in zip(returned, chunks, strict=True)]
        if any(chunk.ndim == 2 for chunk in scores) and any(chunk.ndim == 1 for chunk in scores):
            raise ScorerError(f"{self._subject} must score either every response or every token, got both.")
        return torch.cat(scores)

    def _scored(self, returned: Any, responses: Responses) -> Tensor:
        if isinstance(returned, Raised):
            with self._explained(responses):
                raise returned.error
        scores = returned.tolist() if hasattr(returned, "tolist") else returned
        if not isinstance(scores, Sequence) or isinstance(scores, str | bytes) or len(scores) != len(responses):
            number = len(scores) if isinstance(scores, Sequence) else type(returned).__name__
            raise ScorerError(
                f"{self._subject} must return one score per response, got {number} "
                f"for {len(responses)} responses. {place_of(responses, 0)}"
            )
        if not any(isinstance(score, Sequence) and not isinstance(score, str) for score in scores):
            numbers = [self._number(score, responses, row) for row, score in enumerate(scores)]
            return torch.tensor(numbers, dtype=torch.float32)
        return self._token_scores(scores, responses)

    def _called(self, responses: Responses) -> Any:
        """What the function returns: scores, or a coroutine that will."""
        with self._explained(responses), time_limit(self.timeout_s, lambda: f"{self._too_long}. {_whose(responses)}."):
            return self.function(list(responses.prompts), list(responses.responses), **self._columns(responses))

    @property
    def _too_long(self) -> str:
        return f"{self._subject} must return within {self.timeout_s} s (reward_timeout_s), got no answer"

    @contextmanager
    def _explained(self, responses: Responses) -> Iterator[None]:
        """The function's own errors and a call that takes too long as one message."""
        try:
            yield
        except ScorerError as error:  # the component's own message: it knows which response is meant
            raise ScorerError(f"{self._subject}: {error}") from error
        except TimeLimitError as error:
            raise ScorerError(f"{self._too_long}: {error}. {_whose(responses)}.") from error
        except SIGTERMException:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:
            row = self._culprit(responses, error)
            raise ScorerError(
                f"{self._subject} must return scores, got {type(error).__name__}: {error}. {place_of(responses, row)}."
            ) from error

    def _culprit(self, responses: Responses, error: BaseException) -> int:
        """The row that raises this kind of error by itself, too; the first one where none does."""
        for row in range(len(responses) if len(responses) > 1 else 0):
            place = f"{self._subject} must return, got no answer. {place_of(responses, row)}."
            alone = responses.select([row])
            try:
                with time_limit(_SECONDS_FOR_A_CULPRIT, lambda place=place: place):  # type: ignore[misc]
                    answer = self.function(list(alone.prompts), list(alone.responses), **self._columns(alone))
                if inspect.isawaitable(answer):
                    (outcome,) = run_together([answer], _SECONDS_FOR_A_CULPRIT)
                    if isinstance(outcome, Raised):
                        raise outcome.error
            except type(error):
                return row
            except (Exception, SystemExit, GeneratorExit):
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
        columns["prefilled"] = list(responses.prefilled)
        columns["response_tokens"] = [list(tokens) for tokens in responses.response_tokens]
        columns["stopped"] = responses.stopped.tolist()
        return columns

    def _token_scores(self, scores: Sequence[Any], responses: Responses) -> Tensor:
        table = torch.zeros(responses.completion_mask.shape, dtype=torch.float32)
        for row, tokens in enumerate(responses.response_tokens):
            if scores[row] is None:
                table[row] = math.nan
                continue
            row_scores = scores[row].tolist() if hasattr(scores[row], "tolist") else scores[row]
            if not isinstance(row_scores, Sequence) or len(row_scores) != len(tokens):
                number = len(row_scores) if isinstance(row_scores, Sequence) else "a single number"
                raise ScorerError(
                    f"{self._subject} must return one score for each of the {len(tokens)} "
                    f"response_tokens, got {number}. {place_of(responses, row)}"
                )
            numbers = [self._number(score, responses, row, may_be_none=False) for score in row_scores]
            table[row, : len(tokens)] = torch.tensor(numbers, dtype=torch.float32)
        return table

    def _number(self, score: Any, responses: Responses, row: int, *, may_be_none: bool = True) -> float:
        if score is None and may_be_none:
            return math.nan  # the function does not apply to this response
        try:
            number = float(score)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= _GREATEST or isinstance(score, str):  # nan is not, either
            shown = f"{score!r:.40}"
            if math.isfinite(number) and abs(number) > _GREATEST:
                shown += f" (fp32 ends at {_GREATEST:.1e})"
            raise ScorerError(
                f"a score of {self._subject} must be a finite number, got {shown}. {place_of(responses, row)}"
            )
        return number


def _whose(responses: Responses) -> str:
    """The first response of a call, and how many there were beside it, for its message."""
    number = len(responses)
    return f"{f'It was given {number} responses, the first with the ' if number > 1 else ''}{place_of(responses, 0)}"
