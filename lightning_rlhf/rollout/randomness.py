"""Random numbers that are looked up, not drawn: every number belongs to a (seed, purpose, iteration, row, step).

Philox (Salmon et al. 2011) maps a key and a counter to random bits. The key holds the seed and the purpose, the counter
the iteration, the row and the step. So a number does not depend on which rank or process asks for it, what was asked
for before or what else is in the batch, and a resumed run finds the numbers of the run that was cut off. Raw bits only:
NumPy keeps those the same over its releases, its distributions it does not.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation", "random_seed", "uniforms"]

_ROWS, _PERMUTATION, _SEED = range(3)  # the counter's highest word: what the bits are used for


def uniforms(seed: int, purpose: str, iteration: int, rows: Sequence[int], num_steps: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per row and step.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for; different purposes are independent.
        iteration: iteration of the run, 0 or more.
        rows: keys of the rows, 0 or more, each with its own stream.
        num_steps: numbers per row; fewer steps are a prefix of more.

    Returns:
        `(rows, num_steps)`.

    >>> uniforms(1, "sample", 0, [7, 3], 2)[1].tolist() == uniforms(1, "sample", 0, [3], 2)[0].tolist()
    True
    """
    key = _key(seed, purpose)
    numbers = np.empty((len(rows), num_steps), dtype=np.float64)
    for index, row in enumerate(rows):
        numbers[index] = _bits(key, _ROWS, iteration, row, num_steps) >> np.uint64(11)
    return numbers * 2.0**-53  # 53 bits are what a float64 holds


def permutation(seed: int, purpose: str, iteration: int, num_items: int) -> NDArray[np.int64]:
    """A random order of `0 … num_items - 1`.

    Args:
        seed: the run's seed.
        purpose: what the order is for; different purposes are independent.
        iteration: iteration of the run, 0 or more.
        num_items: how many there are to order.

    >>> sorted(permutation(1, "minibatch", 0, 4).tolist())
    [0, 1, 2, 3]
    """
    places = _bits(_key(seed, purpose), _PERMUTATION, iteration, 0, num_items)
    return np.argsort(places, kind="stable").astype(np.int64)


def random_seed(seed: int, purpose: str, iteration: int, row: int) -> int:
    """A 63-bit seed for a generator that cannot be keyed itself."""
    return int(_bits(_key(seed, purpose), _SEED, iteration, row, 1)[0] >> np.uint64(1))


def _key(seed: int, purpose: str) -> NDArray[np.uint64]:
    # Python's own hash differs from process to process
    return np.frombuffer(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16], dtype="<u8").astype(np.uint64)


def _bits(key: NDArray[np.uint64], use: int, iteration: int, row: int, number: int) -> NDArray[np.uint64]:
    # the lowest word counts the blocks of a stream, so that no two streams overlap
    counter = np.array([0, row, iteration, use], dtype=np.uint64)
    bits: NDArray[np.uint64] = np.random.Philox(counter=counter, key=key).random_raw(number)
    return bits
