"""Which prompts an iteration samples from."""

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout.randomness import permutation

__all__ = ["PromptSelection", "select_prompts"]


class PromptSelection(NamedTuple):
    """The prompts of one rank in one iteration."""

    row_ids: list[int]
    """Positions in the training split."""
    keys: list[int]
    """What their random numbers are keyed by: the position, or a further number where a prompt comes up again in the
    same iteration, so that it does not get the same responses twice."""


def select_prompts(
    seed: int, iteration: int, *, num_prompts: int, rollout_size: int, rank: int = 0, world_size: int = 1
) -> PromptSelection:
    """The prompts of one rank in one iteration.

    The split is walked through again and again, in a fresh order each time; an iteration takes the next
    `rollout_size * world_size` prompts and deals them out to the ranks in turn. Nothing is kept between calls.

    Args:
        seed: the run's seed.
        iteration: iteration of the run, 0 or more.
        num_prompts: prompts in the split.
        rollout_size: prompts per rank and iteration.
        rank: this rank.
        world_size: number of ranks.

    Raises:
        ConfigError: the split is empty.
    """
    if num_prompts < 1:
        raise ConfigError("the training split must hold at least one prompt, got none. Check the source of the data.")
    size = rollout_size * world_size
    positions = range(iteration * size, (iteration + 1) * size)
    rows = [int(_order(seed, position // num_prompts, num_prompts)[position % num_prompts]) for position in positions]
    seen: Counter[int] = Counter()
    keys = []
    for row in rows:
        keys.append(row + seen[row] * num_prompts)
        seen[row] += 1
    return PromptSelection(rows[rank::world_size], keys[rank::world_size])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_prompts: int) -> NDArray[np.int64]:
    return permutation(seed, "prompts", epoch, num_prompts)
