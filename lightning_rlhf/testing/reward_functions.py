"""The contract of reward functions."""

import asyncio
import copy
import inspect
import math
import pickle
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar

from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.records import Message
from lightning_rlhf.testing.contract import Contract, described
from lightning_rlhf.testing.samples import HOSTILE_TEXTS, RESPONSES

__all__ = ["RewardFunctionContract"]

Row = tuple[str, str, bool]
"""Prompt, response, and whether it stopped by itself."""
Scores = list[float | list[float] | None]

_STOP = "</s>"
# Models give a row beside padded neighbours other last digits than alone.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


class RewardFunctionContract(Contract[RewardFunction]):
    """What every reward function must do.

    Example:
        class TestPoliteness(RewardFunctionContract):
            component = "politeness"
            init_args = {"word": "thanks"}
    """

    __test__ = False
    kind = "reward_function"

    columns: ClassVar[Mapping[str, Any] | None] = None
    """Fields of the row that the function reads, by name, with the value that every row has; None: what its class gives
    as `example_columns`."""

    def test_gives_one_finite_number_per_response(self) -> None:
        """Or one for each of its tokens, or None where the function does not apply."""
        rows = _rows(RESPONSES)
        scores = self.scores(self.make(), rows)
        assert any(score is not None for score in scores), (
            f"{self.subject} must score some responses, got None for all {len(rows)}. Return what it computes; if it "
            "is for rows with a certain field, name that in `columns`."
        )

    def test_scores_tokens_one_by_one_or_not_at_all(self) -> None:
        """The per-token form has one number for each of the response's tokens, and all responses have it or none."""
        rows = _rows(RESPONSES)
        scores = self.scores(self.make(), rows)
        per_token = [isinstance(score, list) for score in scores if score is not None]
        assert all(per_token) or not any(per_token), (
            f"{self.subject} must score either every response or every token, got both in one batch."
        )

    def test_gives_the_same_scores_again(self) -> None:
        """From the same function, and from another instance."""
        rows = _rows(RESPONSES)
        function = self.make()
        first = self.scores(function, rows)
        for what, scores in (
            ("at its second call", self.scores(function, rows)),
            ("of another instance", self.scores(self.make(), rows)),
        ):
            for row, before, after in zip(rows, first, scores, strict=True):
                assert before == after, (
                    f"{self.subject} must be deterministic, got {_shown(before)} and, {what}, {_shown(after)} "
                    f"for the response {_shown(row[1])}."
                )

    def test_does_not_depend_on_the_other_responses(self) -> None:
        """How a batch is cut must not change what is learned."""
        rows = _rows(RESPONSES)
        function = self.make()
        for row, beside in zip(rows, self.scores(function, rows), strict=True):
            alone = self.scores(function, [row])[0]
            assert _close(alone, beside), (
                f"{self.subject} must score a response whatever stands beside it, got {_shown(alone)} alone and "
                f"{_shown(beside)} in a batch for the response {_shown(row[1])}."
            )

    def test_does_not_depend_on_the_order(self) -> None:
        """A batch turned round gives its scores turned round."""
        rows = _rows(RESPONSES)
        function = self.make()
        forward = self.scores(function, rows)
        backward = self.scores(function, rows[::-1])[::-1]
        for row, before, after in zip(rows, forward, backward, strict=True):
            assert _close(before, after), (
                f"{self.subject} must not depend on the order of the batch, got {_shown(before)} and, turned round, "
                f"{_shown(after)} for the response {_shown(row[1])}."
            )

    def test_leaves_its_inputs_alone(self) -> None:
        """The next scorer gets the same lists."""
        prompts, responses, columns = self.batch(_rows(RESPONSES))
        before = copy.deepcopy((prompts, responses, columns))
        self._call(self.make(), prompts, responses, columns)
        for name, left, given in (
            ("prompts", prompts, before[0]),
            ("responses", responses, before[1]),
            *((name, columns.get(name), value) for name, value in before[2].items()),
        ):
            assert left == given, f"{self.subject} must not change its inputs, got other {name} after the call."

    def test_survives_any_text(self) -> None:
        """Empty, very long, emoji, Chinese, control characters, markers; as a response and as a prompt."""
        function = self.make()
        for text in HOSTILE_TEXTS:
            self.scores(function, [("What?", text, True), (text, "Yes.", False)])

    def test_can_be_pickled(self) -> None:
        """Worker processes and checkpoints of some strategies send it as a pickle."""
        rows = _rows(RESPONSES)
        function = self.make()
        before = self.scores(function, rows)
        try:
            copied = pickle.loads(pickle.dumps(function))
        except Exception as error:
            raise AssertionError(
                f"{self.subject} must be picklable, got {described(error)}. Keep no lambda, lock, open file or "
                "connection as an attribute, or define __getstate__."
            ) from error
        after = self.scores(copied, rows)
        assert before == after, f"{self.subject} must score the same after pickling, got {after} instead of {before}."

    def batch(self, rows: Sequence[Row]) -> tuple[list[str], list[str], dict[str, list[Any]]]:
        """Prompts, responses and columns, as a run hands them over."""
        fields = self._of_class("example_columns", {}) if self.columns is None else self.columns
        columns: dict[str, list[Any]] = {name: [copy.deepcopy(value) for _ in rows] for name, value in fields.items()}
        columns["messages"] = [(Message("user", prompt),) for prompt, _, _ in rows]
        columns["prefilled"] = ["" for _ in rows]
        columns["response_tokens"] = [_tokens(response, stopped) for _, response, stopped in rows]
        columns["stopped"] = [stopped for _, _, stopped in rows]
        return [prompt for prompt, _, _ in rows], [response for _, response, _ in rows], columns

    def scores(self, function: RewardFunction, rows: Sequence[Row]) -> Scores:
        """What the function returns for these rows, found to be of the right form."""
        prompts, responses, columns = self.batch(rows)
        returned = self._call(function, prompts, responses, columns)
        returned = returned.tolist() if hasattr(returned, "tolist") else returned
        number = len(returned) if isinstance(returned, Sequence) else None
        assert number is not None, f"{self.subject} must return a list of scores, got {type(returned).__name__}."
        assert number == len(rows), (
            f"{self.subject} must return one score per response, got {number} for {len(rows)} responses."
        )
        return [self._score(score, row) for score, row in zip(returned, rows, strict=True)]

    def _call(
        self, function: RewardFunction, prompts: list[str], responses: list[str], columns: dict[str, list[Any]]
    ) -> Any:
        try:
            returned = function(prompts, responses, **columns)
            return asyncio.run(_outcome(returned)) if inspect.isawaitable(returned) else returned
        except Exception as error:
            raise AssertionError(
                f"{self.subject} must score any text, got {described(error)} for a batch with the responses "
                f"{', '.join(map(_shown, responses[:3]))}."
            ) from error

    def _score(self, score: Any, row: Row) -> float | list[float] | None:
        if score is None:
            return None
        score = score.tolist() if hasattr(score, "tolist") else score
        if not isinstance(score, Sequence) or isinstance(score, str):
            return self._number(score, row)
        tokens = _tokens(row[1], row[2])
        assert len(score) == len(tokens), (
            f"{self.subject} must return one score for each of the {len(tokens)} response_tokens, got {len(score)} for "
            f"the response {_shown(row[1])}."
        )
        return [self._number(number, row) for number in score]

    def _number(self, score: Any, row: Row) -> float:
        try:
            number = math.nan if isinstance(score, str) else float(score)
        except (TypeError, ValueError):
            number = math.nan
        assert math.isfinite(number), (
            f"{self.subject} must return finite numbers, got {_shown(score)} for the response {_shown(row[1])}."
        )
        return number


def _rows(responses: Sequence[str]) -> list[Row]:
    return [(f"Question {number}?", response, number % 3 != 0) for number, response in enumerate(responses)]


def _tokens(response: str, stopped: bool) -> list[str]:
    """Three characters a token, so that tokens are neither words nor characters."""
    tokens = [response[start : start + 3] for start in range(0, len(response), 3)]
    return [*tokens, _STOP] if stopped else tokens


async def _outcome(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _close(first: float | list[float] | None, second: float | list[float] | None) -> bool:
    if first is None or second is None:
        return first is second
    ours, theirs = ([score] if isinstance(score, float) else score for score in (first, second))
    return len(ours) == len(theirs) and all(
        math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE) for one, other in zip(ours, theirs, strict=True)
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
