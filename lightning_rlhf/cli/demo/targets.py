"""What the demo is to reach, and what it did."""

from typing import NamedTuple

from lightning_rlhf.cli.demo.measures import Measures

__all__ = ["Target", "targets"]


class Target(NamedTuple):
    """A bound and the number that was measured."""

    name: str
    bound: float
    value: float
    met: bool

    def row(self) -> tuple[str, str, str]:
        """As it is shown."""
        return self.name, f"{self.value:.2f}", "met" if self.met else "missed"


def targets(
    *, cpu_seconds: float, accuracy: float, longer_wins: float, before: Measures, after: Measures
) -> list[Target]:
    """Every target of the demo.

    Args:
        cpu_seconds: of all stages.
        accuracy: the reward model's, on held-out pairs.
        longer_wins: what "the longer response wins" reaches on them.
        before: of the SFT model's responses to held-out questions.
        after: of the PPO model's.
    """
    return [
        _at_most("CPU seconds, at most 300", cpu_seconds, 300),
        _at_least("held-out pair accuracy, at least 0.60", accuracy, 0.60),
        _at_least("above 'longer wins', at least 0.05", accuracy - longer_wins, 0.05),
        _at_least("the judge's mean, up by at least 0.15", after.judge - before.judge, 0.15),
        _at_least("response length against SFT, at least 0.60", after.length / before.length, 0.60),
        _at_most("KL to the SFT model, at most 15 nats", after.kl, 15),
        _at_least("distinct-2 against SFT, at least 0.60", after.distinct_2 / before.distinct_2, 0.60),
    ]


def _at_least(name: str, value: float, bound: float) -> Target:
    return Target(name, bound, value, value >= bound)


def _at_most(name: str, value: float, bound: float) -> Target:
    return Target(name, bound, value, value <= bound)
