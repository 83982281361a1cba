"""Sequential ratings without a sequence.

Elo and OpenSkill rate one game after the other, and the order changes the ratings; annotators have none. Cut every
ranking into n parts that count 1/n each, and play all first parts, all second parts, and so on: the larger n, the less
does the order inside a round matter, and in the limit the ratings follow a differential equation that knows no order,
`dr/dt = sum over annotators of the update that one ranking makes`, for t from 0 to 1.
"""

from collections.abc import Callable

from scipy.integrate import solve_ivp

from lightning_rlhf_rankings.aggregation import Array

__all__ = ["flowed"]


def flowed(start: Array, update: Callable[[Array], Array]) -> Array:
    """The ratings after all rankings were rated, each in infinitely many parts.

    Args:
        start: the ratings beforehand.
        update: the sum of the changes that the rankings make to given ratings.
    """
    # The tolerances are relative to log-odds of about 1, far below any standard error; equal candidates stay equal at
    # any tolerance, since they take the same steps.
    solution = solve_ivp(lambda _, ratings: update(ratings), (0, 1), start, rtol=1e-7, atol=1e-9)
    result: Array = solution.y[:, -1]
    return result
