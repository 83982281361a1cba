"""What sampling takes: the pass over the prompts, a token's step, and the keys and values that grow with each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rlhf.cli.estimate.allocations import Trace, recorded, scaled
from lightning_rlhf.cli.estimate.probes import longest_prompt
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.data.rows import Row
from lightning_rlhf.models import evaluation_mode
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.rollout import sample_responses

__all__ = ["SamplingNeeds", "sampling_needs"]


@dataclass(frozen=True, slots=True)
class SamplingNeeds:
    """Bytes and allocations of sampling the longest responses to the longest prompts, `batch_size` rows at a time.

    Args:
        prompts: the pass over the prompts, its cache among what is taken.
        prompt_cache: keys and values of the prompts.
        step: of one further token, without the cache.
        cache: keys and values of whole rows.
        copied: what one layer's keys take, which are copied to grow.
    """

    prompts: Trace
    prompt_cache: float
    step: Trace
    cache: float
    copied: float


def sampling_needs(run: PreparedRun, module: PPOModule, rows: Sequence[Row]) -> SamplingNeeds:
    """Records passes of two and three rows.

    Args:
        run: of the module.
        module: whose policy samples.
        rows: prompts, at least one; the longest is taken.
    """
    prompt = longest_prompt(rows)
    number = min(run.data.batch_size, module.rollout_size * module.settings.num_responses_per_prompt)
    record = partial(_scaled_trace, run, module, number)
    tensors = [tensor.nbytes for tensor in _cached(run, module)]
    longest = len(prompt) + module.settings.max_response_length
    return SamplingNeeds(
        prompts=record(prompt, 1),
        prompt_cache=float(sum(tensors) * number * len(prompt)),
        step=record(prompt[:1], 2),
        cache=float(sum(tensors) * number * longest),
        copied=float(max(tensors, default=0) * number * longest),
    )


def _scaled_trace(run: PreparedRun, module: PPOModule, number: int, prompt: Sequence[int], num_tokens: int) -> Trace:
    traces = [recorded(_work(run, module, prompt, copies, num_tokens), module.device) for copies in (2, 3)]
    return scaled(traces, [(2,), (3,)], (number,))


def _work(
    run: PreparedRun, module: PPOModule, prompt: Sequence[int], copies: int, num_tokens: int
) -> Callable[[], None]:
    ids = torch.tensor([list(prompt)] * copies, device=module.device)
    ids[:, -1] = torch.arange(copies)  # prompts that are the same pass once

    def work() -> None:
        with evaluation_mode(module.actor_critic), run.trainer.precision_plugin.forward_context():
            sample_responses(
                module.actor_critic.generation_model,
                ids,
                torch.ones_like(ids, dtype=torch.bool),
                np.zeros((copies, num_tokens)),
                stop_ids=[],
                max_response_length=num_tokens,
                temperature=module.settings.temperature,
            )

    return work


def _cached(run: PreparedRun, module: PPOModule) -> list[Tensor]:
    """Keys and values that a row of one token leaves, a tensor per layer and kind."""
    model = module.actor_critic.generation_model
    ids = torch.zeros((1, 1), dtype=torch.int64, device=module.device)
    with torch.no_grad(), evaluation_mode(model), run.trainer.precision_plugin.forward_context():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    return list(_tensors(cache))


def _tensors(cache: Any) -> Iterator[Tensor]:
    for layer in getattr(cache, "layers", ()):
        for name in ("keys", "values"):
            if isinstance(held := getattr(layer, name, None), Tensor):
                yield held
