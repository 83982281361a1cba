"""Reward functions written for TRL."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightning_rlhf.errors import ConfigError
from lightning_rlhf_compat.foreign import Batch, ForeignReward

__all__ = ["TRLReward"]

_NOT_HERE = ("trainer_state", "environments")


class TRLReward(ForeignReward):
    """A reward function written for TRL: `function(prompts, completions, **columns)`, plain or async.

    It gets by name what it takes of: prompts, completions, every other field of the rows, log_extra and log_metric
    (what it logs is left out, with a warning), and with a tokenizer completion_ids. None in what it returns means
    that the function does not apply to that response.

    Args:
        path: `module:name` or `path/to/file.py:name`. The module or file is executed.
        conversational: prompts are lists of messages and completions lists of one assistant message, as TRL gives them
            for conversational datasets; otherwise both are strings, the prompt as rendered for the policy.
        none_score: the score where the function returns None. TRL leaves those out of its sum of rewards, which is 0.
        tokenizer: directory or hub id of a tokenizer, for functions that take completion_ids: the response encoded
            again, and the stop token where it stopped.
        keywords: further keyword arguments of every call.
    """

    library = "TRL"
    example: ClassVar[Mapping[str, Any]] = {"path": "lightning_rlhf_compat.examples:brevity"}

    def __init__(
        self,
        path: str,
        conversational: bool = False,
        none_score: float = 0.0,
        tokenizer: str | None = None,
        keywords: dict[str, Any] | None = None,
    ) -> None:
        self.conversational = conversational
        self.none_score = none_score
        super().__init__(path, keywords, tokenizer)
        if self._tokenizer is None and "completion_ids" in self._parameters.missing(self.keywords):
            raise ConfigError(
                f"tokenizer must be given for {self.subject}, got null: the function needs completion_ids. "
                "Name the `model/` of a run, or the base's hub id."
            )
        for name in self._parameters.missing(self.keywords):
            if name in _NOT_HERE:
                raise ConfigError(
                    f"{self.subject} must do without {name}, which only TRL's trainers have. Give the argument a "
                    "default, or a value in keywords."
                )

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        """One score per response."""
        batch = Batch(prompts, responses, columns)
        arguments = self._arguments(batch)
        self.require(batch, list(arguments))
        (returned,) = self.call(batch, {0: self.bound(**self._parameters.accepted(arguments))})
        entries = self.entries(batch, returned, range(len(batch)))
        return [
            self.none_score if entry is None else self.number(batch, entry, row) for row, entry in enumerate(entries)
        ]

    def advice(self, error: Exception) -> str:
        """A function for messages fails on strings in this way, `completion[0]["content"]`, and the other way round."""
        if not self.conversational and isinstance(error, TypeError) and "string indices" in str(error):
            return "Set conversational to true if it is written for messages. "
        if self.conversational and isinstance(error, TypeError | AttributeError) and "list" in str(error):
            return "Set conversational to false if it is written for strings. "
        return ""

    def _arguments(self, batch: Batch) -> dict[str, Any]:
        arguments: dict[str, Any] = {**batch.fields, "log_extra": self._log_extra, "log_metric": self._log_metric}
        arguments.pop("completion", None)  # as TRL does
        arguments.pop("completion_ids", None)
        if self._tokenizer is not None:
            arguments["completion_ids"] = self._completion_ids(batch)
        if self.conversational:
            arguments["prompts"] = [
                [{"role": message.role, "content": message.content} for message in messages]
                for messages in batch.column("messages", self.subject)
            ]
            arguments["completions"] = [[{"role": "assistant", "content": text}] for text in batch.responses]
        else:
            arguments["prompts"], arguments["completions"] = batch.prompts, batch.responses
        return arguments

    def _completion_ids(self, batch: Batch) -> list[list[int]]:
        assert self._tokenizer is not None
        encoded = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in batch.responses]
        stopped = batch.columns.get("stopped", [False] * len(batch))
        stop = [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
        return [[*ids, *stop] if ended else list(ids) for ids, ended in zip(encoded, stopped, strict=True)]

    def _log_extra(self, column: str, values: Sequence[Any]) -> None:
        self._not_logged(f"log_extra({column!r}, …)")

    def _log_metric(self, name: str, value: float) -> None:
        self._not_logged(f"log_metric({name!r}, …)")

    def _not_logged(self, what: str) -> None:
        # the default filter shows a warning once for each text and place, so once per name
        warnings.warn(f"{self.subject} called {what}, which is not recorded here.", UserWarning, stacklevel=3)
