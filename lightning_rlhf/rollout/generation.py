"""Sampling with transformers' `generate`, for models that the built-in sampler does not run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lightning_rlhf.rollout.sampling import (
    SampledResponses,
    check_lengths,
    finish_responses,
    require_finite_logits,
    wrapped_model,
)

__all__ = ["generate_responses"]


@torch.no_grad()
def generate_responses(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    *,
    seed: int,
    stop_ids: Sequence[int],
    max_response_length: int,
    temperature: float = 1.0,
    greedy: bool = False,
) -> SampledResponses:
    """Samples one response per row; the whole batch shares one random stream, so samples depend on how it is cut.

    Whatever else the model's own generation settings ask for (top-k, top-p, penalties) is left out: scoring knows
    nothing of it.

    Args:
        model: a causal language model of transformers, in eval mode.
        prompt_ids: `(B, P)`, left-padded.
        prompt_mask: `(B, P)`, True = keep.
        seed: of this call; the global generator is left as it was.
        stop_ids: tokens that end a response, and belong to it.
        max_response_length: tokens after which a response is cut.
        temperature: the logits are divided by it.
        greedy: take the most probable token instead.

    Raises:
        ConfigError: an argument breaks its rule, or the rows do not fit the model's positions.
        DivergenceError: the model's logits are not finite.
    """
    check_lengths(model, prompt_mask, max_response_length)
    chosen: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "temperature": temperature}
    if not greedy:
        chosen |= {"top_k": 0, "top_p": 1.0}
    settings = _settings(
        max_new_tokens=max_response_length, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0], **chosen
    )
    with _own_settings(wrapped_model(model)), _seeded(prompt_ids.device, seed):
        generate: Any = model.generate
        ids = generate(
            inputs=prompt_ids,
            attention_mask=prompt_mask.long(),
            generation_config=settings,
            logits_processor=[_finite],
        )
    response_ids = prompt_ids.new_zeros(len(prompt_ids), max_response_length)
    sampled = ids[:, prompt_ids.shape[1] :]
    response_ids[:, : sampled.shape[1]] = sampled
    return finish_responses(response_ids, stop_ids)


def _finite(ids: Tensor, logits: Tensor) -> Tensor:
    """The logits as they are; torch would sample from others with an error of its own, or take any token."""
    require_finite_logits(logits.amax(-1).isfinite().all())
    return logits


def _settings(**values: Any) -> GenerationConfig:
    build: Any = GenerationConfig  # untyped in transformers
    settings: GenerationConfig = build(**values)
    return settings


@contextmanager
def _own_settings(model: nn.Module) -> Iterator[None]:
    """Hides the model's generation settings, which transformers would mix into those of the call."""
    holder: Any = model
    settings = holder.generation_config
    holder.generation_config = _settings()
    try:
        yield
    finally:
        holder.generation_config = settings


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds the device's generator and puts its state back afterwards."""
    generators: Any = torch if device.type == "cpu" else torch.get_device_module(device)
    reseed = torch.default_generator.manual_seed if device.type == "cpu" else generators.manual_seed
    state = generators.get_rng_state()
    reseed(seed)
    try:
        yield
    finally:
        generators.set_rng_state(state)
