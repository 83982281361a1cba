"""What the two maximum-likelihood converters share."""

from collections.abc import Callable

import numpy as np

from lightning_rlhf.errors import ConfigError
from lightning_rlhf_rankings.aggregation import Array

__all__ = ["TOLERANCE", "checked_regularization", "polished"]

TOLERANCE = 1e-3
"""Where choix's optimizer may stop; so near to the maximum Newton's steps double the right digits."""

_NUM_STEPS = 3


def checked_regularization(regularization: float) -> float:
    """The argument, if it can keep a candidate that wins every comparison finite.

    Raises:
        ConfigError: it cannot.
    """
    if not 0 < regularization < np.inf:
        raise ConfigError(f"regularization must be above 0, got {regularization}.")
    return regularization


def polished(utilities: Array, gradient: Callable[[Array], Array], hessian: Callable[[Array], Array]) -> Array:
    """The maximum, from where the optimizer stopped: Newton's steps turn its few digits into all of them.

    Tied candidates must come out equal, which a few digits are not enough for.

    Args:
        utilities: near the maximum.
        gradient: of the penalised log-likelihood.
        hessian: its negative second derivative, positive definite.
    """
    for _ in range(_NUM_STEPS):
        utilities = utilities + np.linalg.solve(hessian(utilities), gradient(utilities))
    return utilities
