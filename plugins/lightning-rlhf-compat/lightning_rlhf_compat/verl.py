"""Reward functions written for verl."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf_compat.foreign import Batch, ForeignReward

__all__ = ["VerlReward"]

_ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")


class VerlReward(ForeignReward):
    """A reward function written for verl: `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    Plain or async, called once per response with what it takes of: solution_str (the response), and from rows laid out
    as verl's: data_source, ground_truth and a copy of extra_info (empty where rows have none). It returns a number or a
    dict, whose "score" is the score. A function of data_sources, solution_strs, ground_truths and extra_infos, as
    verl's batch reward manager calls it, is called once with lists.

    Args:
        path: `module:name` or `path/to/file.py:name`. The module or file is executed.
        ground_truth_column: the rows' field that becomes ground_truth; dots lead into it.
        data_source: what rows without a field data_source stand for.
        keywords: further keyword arguments of every call: verl's reward_kwargs.
    """

    library = "verl"
    example: ClassVar[Mapping[str, Any]] = {
        "path": "lightning_rlhf_compat.examples:compute_score",
        "keywords": {"ground_truth": "."},  # so that it can be called on rows without one
    }

    def __init__(
        self,
        path: str,
        ground_truth_column: str = "reward_model.ground_truth",
        data_source: str = "",
        keywords: dict[str, Any] | None = None,
    ) -> None:
        self.ground_truth_column = ground_truth_column
        self.data_source = data_source
        super().__init__(path, keywords)
        known = [*_ARGUMENTS, *(f"{name}s" for name in _ARGUMENTS)]
        missing = [name for name in self._parameters.missing(self.keywords) if name not in known]
        if missing:
            raise ConfigError(
                f"keywords must hold what {self.subject} needs besides {', '.join(_ARGUMENTS)}, "
                f"got no {', '.join(missing)}."
            )

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        batch = Batch(prompts, responses, columns)
        in_lists = "solution_strs" in self._parameters.named
        arguments = self._arguments(batch, "s" if in_lists else "")
        if in_lists:
            (returned,) = self.call(batch, {0: self.bound(**arguments)})
            entries = self.entries(batch, returned, range(len(batch)))
        else:
            entries = self.call(batch, {row: self._call_for(arguments, row) for row in range(len(batch))})
        return [self.number(batch, self._score(batch, entry, row), row) for row, entry in enumerate(entries)]

    def _call_for(self, arguments: Mapping[str, Sequence[Any]], row: int) -> Callable[[], Any]:
        return self.bound(**{name: values[row] for name, values in arguments.items()})

    def _arguments(self, batch: Batch, ending: str) -> dict[str, list[Any]]:
        """What the function takes, each with one entry per response."""
        makers: dict[str, Callable[[Batch], list[Any]]] = {
            "data_source": lambda batch: list(batch.columns.get("data_source", [self.data_source] * len(batch))),
            "solution_str": lambda batch: batch.responses,
            "ground_truth": self._ground_truths,
            "extra_info": _extra_infos,
        }
        wanted = self._parameters.accepted({name + ending: make for name, make in makers.items()})
        return {name: make(batch) for name, make in wanted.items() if name not in self.keywords}

    def _ground_truths(self, batch: Batch) -> list[Any]:
        column, *keys = self.ground_truth_column.split(".")
        values = list(batch.column(column, self.subject))
        for key in keys:
            for row, value in enumerate(values):
                if not isinstance(value, Mapping) or key not in value:
                    raise ScorerError(
                        f"the rows' {column} must hold {self.ground_truth_column!r} for {self.subject}, got "
                        f"{value!r:.80}. Name another field with ground_truth_column. {batch.place(row)}"
                    )
            values = [value[key] for value in values]
        return values

    def _score(self, batch: Batch, entry: Any, row: int) -> Any:
        if not isinstance(entry, Mapping):
            return entry
        if "score" not in entry:
            raise ScorerError(
                f'the dict of {self.subject} must have the key "score", got {", ".join(map(str, entry))}. '
                f"{batch.place(row)}"
            )
        return entry["score"]


def _extra_infos(batch: Batch) -> list[dict[str, Any]]:
    """Copies, because verl's functions may write into theirs; the responses to one prompt share the row's."""
    return [copy.deepcopy(dict(info or {})) for info in batch.columns.get("extra_info", [None] * len(batch))]
