"""Sampling from a stage's model outside of a training run: for rankings, and to measure before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_rlhf.batches import PromptBatch, PromptDetails
from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.functional import kl_k1, token_logprobs
from lightning_rlhf.models import LanguageModel, LoadedModel, load_base
from lightning_rlhf.records import Message
from lightning_rlhf.rollout import RolloutRuntime, RolloutSettings, SampledResponses, response_rows, to_rows
from lightning_rlhf.rollout.answering import sample_prompts

__all__ = ["Answer", "Respondent"]

_BATCH_SIZE = 128


class Answer(NamedTuple):
    """One sampled response."""

    prompt: str
    text: str
    length: int
    """Tokens, the stop token included."""
    kl: float
    """To the reference, nats; 0 without one."""


class Respondent:
    """A trained model with its recorded template.

    Args:
        path: a stage's `model/`.
        max_response_length: tokens at most.
        temperature: of sampling; the KL is measured at the same one.
        reference: `model/` of the reference that the KL is measured to.
    """

    def __init__(
        self, path: Path, *, max_response_length: int, temperature: float = 1.0, reference: Path | None = None
    ) -> None:
        loaded: LoadedModel = load_base(str(path))
        if loaded.template is None:
            raise AssertionError("a stage records its template")
        self._model = LanguageModel(loaded.model)
        self._formatter = PromptFormatter(loaded.template.create(), loaded.tokenizer)
        self._settings = RolloutSettings(max_response_length=max_response_length, temperature=temperature)
        self._reference = None if reference is None else LanguageModel(load_base(str(reference)).model)

    def answers(self, prompts: Sequence[str], *, num_samples: int, seed: int, purpose: str) -> list[Answer]:
        """Sampled responses, those of a prompt next to each other.

        Args:
            prompts: questions.
            num_samples: responses per prompt.
            seed: of the samples; the same seed and purpose compare two models on the same random numbers.
            purpose: what the samples are for.
        """
        repeated = [prompt for prompt in prompts for _ in range(num_samples)]
        batch = self._prompts(repeated)
        sampled = sample_prompts(
            self._model.model,
            batch,
            range(len(repeated)),
            self._formatter.stop_ids,
            self._settings,
            RolloutRuntime(show_progress=True),
            seed=seed,
            purpose=purpose,
            iteration=0,
            batch_size=_BATCH_SIZE,
        )
        kl = self._kl(batch, sampled)
        return [
            Answer(prompt, self._formatter.decode_response(ids[mask].tolist()).strip(), int(mask.sum()), row_kl)
            for prompt, ids, mask, row_kl in zip(
                repeated, sampled.response_ids, sampled.completion_mask, kl.tolist(), strict=True
            )
        ]

    def _prompts(self, prompts: Sequence[str]) -> PromptBatch:
        messages = [(Message("user", prompt),) for prompt in prompts]
        ids = [self._formatter.encode_prompt(dialogue) for dialogue in messages]
        length = max(len(row) for row in ids)
        prompt_ids = torch.tensor([[0] * (length - len(row)) + row for row in ids])
        prompt_mask = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in ids])
        details = PromptDetails([self._formatter.render_prompt(m) for m in messages], list(messages), [{} for _ in ids])
        return PromptBatch(prompt_ids, prompt_mask, torch.arange(len(ids)), details)

    @torch.no_grad()
    def _kl(self, batch: PromptBatch, sampled: SampledResponses) -> torch.Tensor:
        if self._reference is None:
            return torch.zeros(len(batch.prompt_ids))
        parts = []
        for start in range(0, len(batch.prompt_ids), _BATCH_SIZE):
            chunk = slice(start, start + _BATCH_SIZE)
            mask = sampled.completion_mask[chunk]
            rows = response_rows(batch.prompt_ids[chunk], batch.prompt_mask[chunk], sampled.response_ids[chunk], mask)
            policy, reference = (
                token_logprobs(
                    model(rows.tokens, rows.keep).logits, rows.taken_ids, temperature=self._settings.temperature
                )
                for model in (self._model, self._reference)
            )
            parts.append(to_rows(kl_k1(policy, reference), mask).sum(-1))
        return torch.cat(parts)
