"""What a rollout is collected with."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from lightning_rlhf.arguments import require_at_least, require_one_of, require_positive, require_share

__all__ = ["RolloutRuntime", "RolloutSettings", "progress"]

ContextFactory = Callable[[], AbstractContextManager[Any]]

Sampler = Literal["builtin", "transformers"]

_PROGRESS_DELAY_S = 2.0


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Hyper-parameters of sampling and of the advantages.

    Args:
        max_response_length: tokens after which a response is cut.
        temperature: of sampling; all log-probabilities are taken at the same one.
        num_responses_per_prompt: responses sampled for each prompt.
        gamma: discount per token.
        gae_lambda: lambda of generalised advantage estimation.
        missing_stop_penalty: taken off the score of a response that did not stop: `score - missing_stop_penalty`.
        mask_unstopped: leave responses that did not stop out of the loss and out of the moments of whitening and
            normalisation.
        sampler: builtin (samples depend on prompt and random numbers alone) or transformers (`model.generate`; samples
            depend on how the prompts are cut into batches).
    """

    max_response_length: int
    temperature: float = 1.0
    num_responses_per_prompt: int = 1
    gamma: float = 1.0
    gae_lambda: float = 0.95
    missing_stop_penalty: float = 0.0
    mask_unstopped: bool = False
    sampler: Sampler = "builtin"

    def __post_init__(self) -> None:
        require_at_least(
            1, max_response_length=self.max_response_length, num_responses_per_prompt=self.num_responses_per_prompt
        )
        require_positive(temperature=self.temperature)
        require_share(gamma=self.gamma, gae_lambda=self.gae_lambda)
        require_at_least(0, missing_stop_penalty=self.missing_stop_penalty)
        require_one_of(Sampler, "sampler", self.sampler)


@dataclass(frozen=True, slots=True)
class RolloutRuntime:
    """What the Trainer brings along.

    Args:
        precision: context of every forward pass: the one that the update runs in.
        generation: context of sampling; makes the whole weights available where a strategy shards them.
        reduce: sum of a tensor over all ranks; gets float64 or int64 on the CPU.
        show_progress: whether this rank shows a bar when it takes long.
    """

    precision: ContextFactory = nullcontext
    generation: ContextFactory = nullcontext
    reduce: Callable[[Tensor], Tensor] = lambda total: total
    show_progress: bool = False


@contextmanager
def progress(description: str, total: int, shown: bool) -> Iterator["tqdm[Any]"]:
    """A bar on stderr that appears when the work takes more than two seconds."""
    with tqdm(
        total=total,
        desc=description,
        unit="row",
        delay=_PROGRESS_DELAY_S,
        file=sys.stderr,
        leave=False,
        disable=not shown,
    ) as bar:
        yield bar
