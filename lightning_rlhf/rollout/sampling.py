"""Sampling responses token by token, so that a response depends on its prompt and its random numbers alone."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rlhf.errors import ConfigError, DivergenceError, ModelError
from lightning_rlhf.functional import completion_mask, position_ids
from lightning_rlhf.rollout.cache import make_room

__all__ = [
    "SampledResponses",
    "check_lengths",
    "finish_responses",
    "invert_cdf",
    "prompt_numbers",
    "sample_responses",
    "wrapped_model",
]

_COMPACT_SHARE = 0.75
"""Finished rows leave the batch once no more than this share of it still runs: copying the cache has its price."""


class SampledResponses(NamedTuple):
    """Responses as wide as the longest that was allowed, 0 (False) after their end."""

    response_ids: Tensor
    """`(B, R)`."""
    completion_mask: Tensor
    """`(B, R)`, True up to and including the first stop token."""
    stopped: Tensor
    """`(B,)`, False where the response was cut at its maximal length."""


@torch.no_grad()
def sample_responses(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    uniforms: NDArray[np.float64] | None,
    *,
    stop_ids: Sequence[int],
    max_response_length: int,
    temperature: float = 1.0,
    greedy: bool = False,
) -> SampledResponses:
    """Samples one response per row from the model's own distribution: no top-k, no top-p, no penalty.

    One pass over the prompts, those of neighbouring rows that are equal once, then one token per row and step with the
    key-value cache. Rows that have stopped are taken out of the batch and the cache. Which rows run beside a row, how
    far they are padded and when rows leave changes nothing but the last bits of the logits.

    Args:
        model: a causal language model of transformers, in eval mode.
        prompt_ids: `(B, P)`, left-padded.
        prompt_mask: `(B, P)`, True = keep.
        uniforms: `(B, R)`, one number in [0, 1) per row and step, see `randomness.uniforms`; None with `greedy`.
        stop_ids: tokens that end a response, and belong to it.
        max_response_length: tokens after which a response is cut.
        temperature: the logits are divided by it.
        greedy: take the most probable token instead.

    Raises:
        ConfigError: an argument breaks its rule, or the rows do not fit the model's positions.
        ModelError: the model has no key-value cache that rows can be taken out of.
        DivergenceError: its logits are not finite.
    """
    check_lengths(model, prompt_mask, max_response_length)
    if not temperature > 0:
        raise ConfigError(f"temperature must be positive, got {temperature}. For the most probable token use greedy.")
    places = None if greedy else _on_device(uniforms, (len(prompt_ids), max_response_length), prompt_ids.device)
    step = _CachedSteps(model, prompt_ids, prompt_mask, max_response_length)
    stops = torch.tensor(list(stop_ids), dtype=torch.int64, device=prompt_ids.device)
    response_ids = prompt_ids.new_zeros(len(prompt_ids), max_response_length)
    rows = torch.arange(len(prompt_ids), device=prompt_ids.device)  # those that the cache still holds
    running = torch.ones_like(rows, dtype=torch.bool)
    finite = torch.ones((), dtype=torch.bool, device=prompt_ids.device)
    tokens = prompt_ids
    for index in range(max_response_length):
        logits = step(tokens)
        finite &= logits.amax(-1).isfinite().all()  # in one pass: a maximum passes nan on
        if places is None:
            chosen = logits.argmax(-1)
        else:
            chosen = invert_cdf(logits, places[rows, index], temperature=temperature)
        chosen = chosen.masked_fill(~running, 0)
        response_ids[rows, index] = chosen
        running = running & ~torch.isin(chosen, stops)
        num_running = int(running.sum())  # the one thing per step that the host waits for
        if num_running == 0:
            break
        if num_running <= _COMPACT_SHARE * len(rows):
            kept = running.nonzero().squeeze(-1)
            rows, running, chosen = rows[kept], running[kept], chosen[kept]
            step.keep(kept)
        tokens = chosen[:, None]
    require_finite_logits(finite)
    return finish_responses(response_ids, stop_ids)


def invert_cdf(logits: Tensor, uniforms: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The token at which the cumulative distribution passes the uniform number: `min {v: F(v) > u}`.

    In float64, or in float32 where the device has no float64. A token of probability zero is never taken.

    Args:
        logits: `(B, V)`.
        uniforms: `(B,)` in [0, 1).
        temperature: the logits are divided by it.

    Returns:
        Token ids `(B,)`.

    >>> invert_cdf(torch.zeros(3, 4), torch.tensor([0.0, 0.3, 0.99])).tolist()
    [0, 1, 3]
    """
    dtype = _widest_float(logits.device)
    tempered = logits.to(dtype) if temperature == 1 else logits.to(dtype) / temperature
    cdf = torch.softmax(tempered, dim=-1).cumsum_(-1)
    total = cdf[:, -1]
    # rounding may lift u * total to total, behind which only tokens of probability zero are left
    place = torch.minimum(uniforms.to(dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cdf, place[:, None], right=True).squeeze(-1)
    return found.clamp(max=logits.shape[-1] - 1)  # out of range only if the logits are not finite


def require_finite_logits(finite: Tensor) -> None:
    """Refuses to go on from logits that are no numbers.

    Args:
        finite: one bool: whether each row has a token that can be taken.

    Raises:
        DivergenceError: not so.
    """
    if not finite:
        raise DivergenceError(
            "the logits of the model must be finite, got nan or inf. Lower the learning rate; before the first step, "
            "look at the weights of the base."
        )


def finish_responses(response_ids: Tensor, stop_ids: Sequence[int]) -> SampledResponses:
    """Finds the ends of the responses and clears what stands after them."""
    mask = completion_mask(response_ids, stop_ids)
    stops = torch.tensor(list(stop_ids), dtype=torch.int64, device=response_ids.device)
    stopped = (torch.isin(response_ids, stops) & mask).any(-1)
    return SampledResponses(response_ids.masked_fill(~mask, 0), mask, stopped)


def check_lengths(model: nn.Module, prompt_mask: Tensor, max_response_length: int) -> None:
    """Refuses empty prompts, empty responses and rows that are longer than the model's positions."""
    lengths = prompt_mask.sum(-1)
    if max_response_length < 1:
        raise ConfigError(f"max_response_length must be at least 1, got {max_response_length}.")
    if int(lengths.min()) < 1:
        raise ConfigError("a prompt must have at least one token, got none. Use a template that writes a BOS.")
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    longest = int(lengths.max()) + max_response_length
    if isinstance(positions, int) and longest > positions:
        raise ConfigError(
            f"prompt and response together must fit the model's {positions} positions, got {longest}. "
            "Lower max_prompt_length or max_response_length."
        )


def prompt_numbers(prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
    """Numbers prompts from 0, those of neighbouring rows that are equal alike: `(B,)`.

    Args:
        prompt_ids: `(B, P)`, left-padded.
        prompt_mask: `(B, P)`, True = keep.

    >>> prompt_numbers(torch.tensor([[1, 2], [1, 2], [0, 2]]), torch.tensor([[1, 1], [1, 1], [0, 1]])).tolist()
    [0, 0, 1]
    """
    rows = torch.cat([prompt_ids, prompt_mask.to(prompt_ids.dtype)], dim=1)
    numbers: Tensor = torch.unique_consecutive(rows, return_inverse=True, dim=0)[1]
    return numbers


def wrapped_model(model: nn.Module) -> nn.Module:
    """The model of transformers inside a wrapper of peft, or the model itself."""
    inner: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def _on_device(uniforms: NDArray[np.float64] | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    if uniforms is None or uniforms.shape != shape:
        found = None if uniforms is None else uniforms.shape
        raise ConfigError(f"uniforms must have one number per row and step, shape {shape}, got {found}.")
    return torch.as_tensor(uniforms).to(device, dtype=_widest_float(device))


def _widest_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class _CachedSteps:
    """The model's next-token logits, one call after the other, with the cache in between."""

    def __init__(self, model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, max_response_length: int) -> None:
        self._model = model
        self._mask = prompt_mask.long()
        self._positions = position_ids(prompt_mask)
        self._cache: Any = None
        self._longest = prompt_ids.shape[1] + max_response_length
        accepted = inspect.signature(wrapped_model(model).forward).parameters
        self._takes_positions = "position_ids" in accepted
        # state-space models keep states, no keys and values, and call them otherwise
        self._keeps_states = "past_key_values" not in accepted and "cache_params" in accepted
        # of the prompt only the last position is projected to the vocabulary
        self._narrowed: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def __call__(self, tokens: Tensor) -> Tensor:
        if self._cache is None:
            return self._begun(tokens)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._positions = self._positions[:, -1:] + 1
        return self._next_logits(tokens, self._mask, self._positions)

    def _begun(self, prompt_ids: Tensor) -> Tensor:
        """The pass over the prompts: one that several neighbouring rows go on from passes once."""
        owners = prompt_numbers(prompt_ids, self._mask)
        firsts = torch.searchsorted(owners, torch.arange(int(owners[-1]) + 1, device=owners.device))
        logits = self._next_logits(prompt_ids[firsts], self._mask[firsts], self._positions[firsts])
        if len(firsts) < len(owners):
            self._cache.reorder_cache(owners)
            logits = logits[owners]
        make_room(self._cache, self._longest)
        return logits

    def _next_logits(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        if self._keeps_states:
            mask = mask[:, -tokens.shape[1] :]  # of what is passed alone: what came before is in the states
        cache_name = "cache_params" if self._keeps_states else "past_key_values"
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            use_cache=True,
            **{cache_name: self._cache},
            **({"position_ids": positions} if self._takes_positions else {}),
            **self._narrowed,
        )
        self._cache = getattr(output, cache_name, None)
        if not hasattr(self._cache, "reorder_cache"):
            raise ModelError(
                f"{type(wrapped_model(self._model)).__name__} must return a key-value cache of transformers, "
                f"got {type(self._cache).__name__}. Use sampler: transformers for this model."
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self._mask = self._mask[rows]
        self._positions = self._positions[rows]
        self._cache.reorder_cache(rows)  # unlike `batch_select_indices` all kinds of layers have it
