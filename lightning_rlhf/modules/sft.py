"""Supervised fine-tuning, and continued pretraining on plain text."""

import math
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_rlhf.arguments import require, require_at_least
from lightning_rlhf.batches import DemonstrationBatch, PromptBatch, TokenBatch
from lightning_rlhf.callbacks import Sample
from lightning_rlhf.data import DemonstrationData, PromptData
from lightning_rlhf.functional import token_cross_entropy
from lightning_rlhf.models import (
    LanguageModel,
    LoRA,
    add_adapter,
    enable_gradient_checkpointing,
    load_base,
    require_packing,
    require_savable_language_model,
    save_language_model,
)
from lightning_rlhf.modules.base import RLHFModule
from lightning_rlhf.modules.generation import generate_greedily, left_padded
from lightning_rlhf.modules.metrics import MeanPerItem
from lightning_rlhf.modules.optimization import LRSchedule
from lightning_rlhf.plugin_system.interfaces import ModelSource
from lightning_rlhf.rollout import RolloutRuntime, RolloutSettings
from lightning_rlhf.rollout.predictions import answer_prompts, numbered_rows

__all__ = ["SFTModule"]


class SFTModule(RLHFModule):
    """Supervised fine-tuning on demonstrations, or continued pretraining on text.

    Minimises the cross-entropy of the supervised tokens: L = L_task + lm_coef * L_LM (Radford et al. 2018, section
    3.2).
    Data: DemonstrationData.

    Args:
        base: the model to start from: a model component, a directory, a .gguf file or a hub id.
        adapter: LoRA settings, or null to train all weights.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more time.
        trust_remote_code: run Python code that comes with the base's directory or hub id.
        merge_adapter: write `model/` with the adapter merged into the weights; otherwise the adapter alone.
        learning_rate: peak learning rate of AdamW.
        weight_decay: decay of weight matrices; biases and norms are not decayed.
        warmup_steps: optimizer steps of linear warm-up.
        lr_schedule: what follows the warm-up; linear and cosine end at zero.
        lm_coef: weight of the language-model term over all real tokens, prompts included; 0 = off.
        neftune_alpha: strength of NEFTune's uniform noise on the embeddings while training (Jain et al. 2023); 0 = off.
        max_response_length: tokens at most of the samples that validation shows and `predict` writes.
        temperature: of the responses that `predict` samples; 0 takes the most probable token.
        num_responses_per_prompt: responses that `predict` samples for each prompt.
    """

    stage: ClassVar[str] = "sft"
    data = DemonstrationData
    predict_data = (PromptData,)

    def __init__(
        self,
        base: ModelSource | str,
        # model
        adapter: LoRA | None = None,
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        merge_adapter: bool = True,
        # optimizer
        learning_rate: float = 2e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        lr_schedule: LRSchedule = "linear",
        # loss
        lm_coef: float = 0.0,
        neftune_alpha: float = 0.0,
        # samples
        max_response_length: int = 64,
        temperature: float = 0.0,
        num_responses_per_prompt: int = 1,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps, lr_schedule=lr_schedule
        )
        require_at_least(0, lm_coef=lm_coef, neftune_alpha=neftune_alpha, temperature=temperature)
        require_at_least(1, max_response_length=max_response_length, num_responses_per_prompt=num_responses_per_prompt)
        require(
            num_responses_per_prompt == 1 or temperature > 0,
            "num_responses_per_prompt",
            "be 1 with the temperature 0, at which all responses are the same",
            num_responses_per_prompt,
        )
        self.record_arguments()
        loaded = load_base(base, trust_remote_code=trust_remote_code)
        self.tokenizer, self.recorded_template = loaded.tokenizer, loaded.template
        self.inputs.remember("base", loaded)
        if adapter is not None:
            loaded = loaded._replace(model=add_adapter(loaded.model, adapter, seed=self.seed))
        if gradient_checkpointing:
            enable_gradient_checkpointing(loaded.model)
        self.model = LanguageModel(loaded.model)
        self.merge_adapter = merge_adapter
        self.lm_coef = lm_coef
        self.neftune_alpha = neftune_alpha
        self.max_response_length = max_response_length
        self.sampling = RolloutSettings(
            max_response_length, temperature or 1.0, num_responses_per_prompt=num_responses_per_prompt
        )
        self.temperature = temperature
        self.heldout_loss = MeanPerItem()
        self._samples: list[Sample] = []
        self._noise_scale: Tensor | None = None
        self.finish_loading()
        if neftune_alpha:
            self.model.divides_rows = False  # the noise is made for the batch as it is
            self.model.model.get_input_embeddings().register_forward_hook(self._add_noise)

    def networks(self) -> Iterable[nn.Module]:
        """The language model."""
        return [self.model]

    def outputs(self, batch: DemonstrationBatch) -> Tensor:
        """The loss."""
        return self._task_loss(batch, num_targets=torch.ones((), dtype=torch.int64, device=self.device))

    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """One group: all trained weights."""
        return [{"params": self.model.parameters(), "lr": self.learning_rate, "name": "policy"}]

    def write_model(self, path: Path) -> None:
        """Writes `model/` for AutoModelForCausalLM."""
        save_language_model(
            self.model.model,
            self.tokenizer,
            path,
            self.template_record,
            merge_adapters=self.merge_adapter,
            plugins=self.plugins,
        )

    def require_savable(self) -> None:
        """Tries to merge and convert the language model."""
        require_savable_language_model(self.model.model)

    def setup(self, stage: str) -> None:
        """Refuses to pack for a model that would mix the documents.

        Raises:
            ModelError: it would.
        """
        super().setup(stage)
        if getattr(self.trainer.datamodule, "packing", False) and not self.is_sharded:  # type: ignore[attr-defined]
            require_packing(self.model.model)

    # Training

    def training_step(self, batch: DemonstrationBatch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the window's loss."""
        if self.neftune_alpha:
            self._noise_scale = self.neftune_alpha / _document_lengths(batch.tokens).float().sqrt()
        loss = self._task_loss(batch, num_targets=batch.num_targets)
        self._noise_scale = None
        self.window_loss.update(loss)
        return loss * self.loss_scale

    def _task_loss(self, batch: DemonstrationBatch, *, num_targets: Tensor | None) -> Tensor:
        tokens = batch.tokens
        next_ids = tokens.input_ids[:, 1:]
        task = torch.zeros_like(tokens.attention_mask)
        task[:, :-1] = batch.labels[:, 1:] != -100
        if not self.lm_coef:
            logits = self.model(tokens, task).logits
            return token_cross_entropy(logits, next_ids[task[:, :-1]], num_targets=num_targets)
        everything = _predicting_positions(tokens)
        keep = everything | task
        logits = self.model(tokens, keep).logits
        ids = next_ids[keep[:, :-1]]
        in_task, in_text = task[keep], everything[keep]
        num_tokens = None if num_targets is None else batch.num_tokens
        task_loss = token_cross_entropy(logits[in_task], ids[in_task], num_targets=num_targets)
        return task_loss + self.lm_coef * token_cross_entropy(logits[in_text], ids[in_text], num_targets=num_tokens)

    def _add_noise(self, module: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        """NEFTune: U(-1, 1) * alpha / sqrt(length * width), in training steps only."""
        if self._noise_scale is None:
            return embeddings
        scale = self._noise_scale[..., None] / math.sqrt(embeddings.shape[-1])
        return embeddings + torch.empty_like(embeddings).uniform_(-1, 1) * scale.to(embeddings.dtype)

    # Validation, test, predict

    def validation_step(self, batch: DemonstrationBatch, batch_idx: int) -> None:
        """Adds to the held-out loss; the first batch's first rows become samples."""
        self._add_heldout(batch)
        if batch_idx == 0:
            self._samples = self._greedy_samples(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and `val/perplexity`."""
        self._log_heldout("val")

    def test_step(self, batch: DemonstrationBatch, batch_idx: int) -> None:
        """Adds to the held-out loss."""
        self._add_heldout(batch)

    def on_test_epoch_end(self) -> None:
        """Logs `test/loss` and `test/perplexity`."""
        self._log_heldout("test")

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Responses to prompts: greedy ones, or K samples for each at a temperature."""
        responses = answer_prompts(
            self.model,
            batch,
            self.trainer.datamodule.formatter,  # type: ignore[attr-defined]
            self.sampling,
            RolloutRuntime(generation=partial(self.whole_weights, self.model)),
            seed=self.seed,
            greedy=not self.temperature,
        )
        rows = zip(responses.prompts, responses.responses, strict=True)
        return numbered_rows(({"prompt": prompt, "response": response} for prompt, response in rows), self.sampling)

    def take_samples(self) -> list[Sample]:
        """The samples of the last validation, once."""
        samples, self._samples = self._samples, []
        return samples

    def _add_heldout(self, batch: DemonstrationBatch) -> None:
        num_targets = (batch.labels[:, 1:] != -100).sum()
        if num_targets:
            task = torch.zeros_like(batch.tokens.attention_mask)
            task[:, :-1] = batch.labels[:, 1:] != -100
            logits = self.model(batch.tokens, task).logits
            total = token_cross_entropy(logits, batch.tokens.input_ids[:, 1:][task[:, :-1]], num_targets=1)
            self.heldout_loss.update(total, num_targets)

    def _log_heldout(self, split: str) -> None:
        loss = self.heldout_loss.compute()
        self.heldout_loss.reset()
        perplexity = math.exp(min(float(loss), 80.0))  # fp32 has no greater one
        self.log_global({f"{split}/loss": loss, f"{split}/perplexity": perplexity}, prog_bar=True)

    def _greedy_samples(self, batch: DemonstrationBatch, num_samples: int = 8) -> list[Sample]:
        tokens = batch.tokens
        prompts = []
        for row in range(min(num_samples, len(tokens.input_ids))):
            real = tokens.attention_mask[row]
            if tokens.segment_ids is not None:
                real = real & (tokens.segment_ids[row] == 0)
            ids = tokens.input_ids[row][real]
            supervised = (batch.labels[row][real] != -100).nonzero()
            start = int(supervised[0]) if len(supervised) else len(ids)
            # a text is supervised from its second token on: show how it goes on after its first words
            prompt = ids[: start if start > 1 else max(1, min(16, len(ids) // 2))]
            prompts.append(prompt[-self._room_for_prompts :])
        responses = self._respond(*left_padded(prompts))
        formatter = self.trainer.datamodule.formatter  # type: ignore[attr-defined]
        texts = [formatter.decode(ids.tolist()) for ids in prompts]
        return [Sample(text, response, label="greedy") for text, response in zip(texts, responses, strict=True)]

    @property
    def _room_for_prompts(self) -> int:
        """Prompt tokens that leave the model room to answer: rows may be as long as its positions."""
        positions = self.max_positions
        return sys.maxsize if positions is None else max(positions - self.max_response_length, 1)

    def _respond(self, prompt_ids: Tensor, prompt_mask: Tensor) -> list[str]:
        formatter = self.trainer.datamodule.formatter  # type: ignore[attr-defined]
        with self.whole_weights(self.model):
            sampled = generate_greedily(
                self.model.model, prompt_ids, prompt_mask, formatter.stop_ids, self.max_response_length
            )
        return [
            formatter.decode_response(ids[mask].tolist())
            for ids, mask in zip(sampled.response_ids, sampled.completion_mask, strict=True)
        ]


def _predicting_positions(tokens: TokenBatch) -> Tensor:
    """Positions whose successor is a real token of the same document."""
    keep = torch.zeros_like(tokens.attention_mask)
    keep[:, :-1] = tokens.attention_mask[:, 1:] & tokens.attention_mask[:, :-1]
    if tokens.segment_ids is not None:
        keep[:, :-1] &= tokens.segment_ids[:, 1:] == tokens.segment_ids[:, :-1]
    return keep


def _document_lengths(tokens: TokenBatch) -> Tensor:
    """For each position the length of the document that it belongs to, at least 1: `(B, T)`."""
    if tokens.segment_ids is None:
        return tokens.attention_mask.sum(-1, keepdim=True).clamp(min=1).expand(tokens.input_ids.shape)
    segments = tokens.segment_ids.clamp(min=0)
    counts = torch.zeros_like(segments).scatter_add_(1, segments, tokens.attention_mask.long())
    return counts.gather(1, segments).clamp(min=1)
