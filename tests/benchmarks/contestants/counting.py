"""Adds up what the steps of a repetition did."""

from typing import Any


class Counts:
    """Sums over the steps of one repetition.

    Args:
        weight: the fact by which the loss was multiplied step by step: its mean is reported.
        **fixed: facts that are the same in every repetition.
    """

    def __init__(self, weight: str, **fixed: float) -> None:
        self._weight = weight
        self._fixed = fixed
        self._sums: dict[str, float] = {}
        self.num_steps = 0

    def add(self, facts: dict[str, float]) -> None:
        """One step."""
        self.num_steps += 1
        for name, value in facts.items():
            self._sums[name] = self._sums.get(name, 0) + value

    def take(self) -> dict[str, Any]:
        """The repetition's facts, once."""
        facts = {**self._sums, **self._fixed, "steps": self.num_steps}
        facts["loss"] = facts["loss"] / facts[self._weight]
        self._sums, self.num_steps = {}, 0
        return facts
