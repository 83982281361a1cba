"""Reward functions written for trlX."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightning_rlhf.errors import ConfigError
from lightning_rlhf_compat.foreign import Batch, ForeignReward

__all__ = ["TRLXReward"]

_TEXTS = ("samples", "prompts", "outputs")
_TOKENIZERS = ("tokenizer", "model_tok")


class TRLXReward(ForeignReward):
    """A reward function written for trlX: `function(samples, prompts, outputs, tokenizer, **columns)`.

    It gets by name what it takes of: prompts, outputs (the responses), samples (both joined), every other field of the
    rows, and with a tokenizer tokenizer (model_tok in trlX's last commits). A function whose first argument has a name
    of its own gets the samples there, as in trlX's first releases. Where it returns a list per response, its entries
    are scores of tokens: they are spread evenly over the response's tokens if their number differs, the last one on the
    last token.

    Args:
        path: `module:name` or `path/to/file.py:name`. The module or file is executed.
        append_stop_token: outputs and samples end with the stop token's text where the response stopped, as in trlX.
        tokenizer: directory or hub id of the tokenizer to hand over, or null.
        keywords: further keyword arguments of every call.
    """

    library = "trlX"
    example: ClassVar[Mapping[str, Any]] = {"path": "lightning_rlhf_compat.examples:vowels"}

    def __init__(
        self,
        path: str,
        append_stop_token: bool = True,
        tokenizer: str | None = None,
        keywords: dict[str, Any] | None = None,
    ) -> None:
        self.append_stop_token = append_stop_token
        super().__init__(path, keywords, tokenizer)
        needed = [name for name in self._parameters.missing(self.keywords) if name in _TOKENIZERS]
        if needed and self._tokenizer is None:
            raise ConfigError(
                f"tokenizer must be given for {self.subject}, got null: the function needs {needed[0]}. "
                "Name the `model/` of a run, or the base's hub id."
            )

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float] | list[list[float]]:
        """One score per response, or one per token."""
        batch = Batch(prompts, responses, columns)
        outputs = batch.responses_as_sampled() if self.append_stop_token else batch.responses
        samples = [prompt + output for prompt, output in zip(batch.prompts, outputs, strict=True)]
        arguments = {**batch.fields, "samples": samples, "prompts": batch.prompts, "outputs": outputs}
        if self._tokenizer is not None:
            arguments |= dict.fromkeys(_TOKENIZERS, self._tokenizer)
        leading = self._own_first_name()
        self.require(batch, [*arguments, *leading])
        named = {name: value for name, value in self._parameters.accepted(arguments).items() if name not in leading}
        (returned,) = self.call(batch, {0: self.bound(*([samples] if leading else []), **named)})
        entries = self.entries(batch, returned, range(len(batch)))
        per_token = [isinstance(entry, list) for entry in entries]
        # one number per response in lists is what trlX takes for scores of whole responses
        if all(per_token) and any(len(entry) != 1 for entry in entries):
            return [self._token_scores(batch, entry, row) for row, entry in enumerate(entries)]
        return [self.number(batch, entry, row) for row, entry in enumerate(entries)]

    def _own_first_name(self) -> list[str]:
        """The first argument's name where it is none of trlX's."""
        names = self._parameters.positional
        return [] if not names or set(_TEXTS) & {*names, *self._parameters.named} else [names[0]]

    def _token_scores(self, batch: Batch, entry: Sequence[Any], row: int) -> list[float]:
        scores = [self.number(batch, score, row) for score in entry]
        length = len(batch.column("response_tokens", self.subject)[row])
        spread = [0.0] * length
        if length:
            for index, score in enumerate(scores):
                spread[-(-(index + 1) * length // len(scores)) - 1] += score
        return spread
