"""Reward functions written for OpenRLHF."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightning_rlhf.errors import ConfigError, ScorerError
from lightning_rlhf_compat.foreign import Batch, ForeignReward

__all__ = ["OpenRLHFReward"]


class OpenRLHFReward(ForeignReward):
    """A reward function written for OpenRLHF: `reward_func(queries, prompts, labels)`.

    It gets, by position: queries (prompt and response joined), prompts, and labels if it takes three. It returns a
    tensor or list of scores, or a dict: its "rewards", or else its "scores", are the scores; "extra_logs" are left out.

    Args:
        path: `module:name` or `path/to/file.py:name`; in OpenRLHF the name is always reward_func. The module or file is
            executed.
        label_column: the rows' field that becomes labels; null gives empty strings, as without OpenRLHF's label_key.
        batch_size: responses per call; 1 is what OpenRLHF gives, null gives all at once.
        append_stop_token: queries end with the stop token's text where the response stopped, as in OpenRLHF.
        keywords: keyword arguments of every call.
    """

    library = "OpenRLHF"
    example: ClassVar[Mapping[str, Any]] = {"path": "lightning_rlhf_compat.examples:reward_func"}

    def __init__(
        self,
        path: str,
        label_column: str | None = None,
        batch_size: int | None = 1,
        append_stop_token: bool = True,
        keywords: dict[str, Any] | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 or null, got {batch_size}.")
        self.label_column = label_column
        self.batch_size = batch_size
        self.append_stop_token = append_stop_token
        super().__init__(path, keywords)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        batch = Batch(prompts, responses, columns)
        outputs = batch.responses_as_sampled() if self.append_stop_token else batch.responses
        queries = [prompt + output for prompt, output in zip(batch.prompts, outputs, strict=True)]
        labels = [""] * len(batch) if self.label_column is None else list(batch.column(self.label_column, self.subject))
        given = [queries, batch.prompts, labels]
        if not self._parameters.takes_any_position:  # releases before labels gave two
            given = given[: len(self._parameters.positional)]
        size = self.batch_size or max(len(batch), 1)
        chunks = {start: range(start, min(start + size, len(batch))) for start in range(0, len(batch), size)}
        calls = {
            start: self.bound(*(column[chunk.start : chunk.stop] for column in given))
            for start, chunk in chunks.items()
        }
        scores: list[float] = []
        for chunk, returned in zip(chunks.values(), self.call(batch, calls), strict=True):
            entries = self.entries(batch, self._rewards(batch, returned, chunk), chunk)
            scores += [self.number(batch, entry, row) for entry, row in zip(entries, chunk, strict=True)]
        return scores

    def _rewards(self, batch: Batch, returned: Any, rows: range) -> Any:
        if not isinstance(returned, Mapping):
            return returned
        for key in ("rewards", "scores"):
            if returned.get(key) is not None:
                return returned[key]
        raise ScorerError(
            f'the dict of {self.subject} must have the key "rewards" or "scores", got {", ".join(map(str, returned))}. '
            f"{batch.place(rows.start)}"
        )
