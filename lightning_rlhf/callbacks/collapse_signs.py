"""What tells that a policy collapses or exploits its reward: numbers of each iteration against those of the first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import NamedTuple

from lightning_rlhf.arguments import require, require_finite
from lightning_rlhf.errors import ConfigError

__all__ = ["Finding", "IterationRecord", "Limits"]

_STANDARD_ERRORS = 3
"""What chance alone may do to a mean."""


@dataclass(frozen=True, slots=True)
class IterationRecord:
    """What is kept of one iteration: means over the responses of all ranks, sampled before its updates.

    Args:
        iteration: from 0.
        step: optimizer steps so far.
        num_responses: of all ranks.
        kl: to the reference, nats per response.
        score: weighted sum of the scorers, before it is converted, normalised or reduced.
        score_deviation: its standard deviation over the responses.
        entropy: nats per response.
        response_length: tokens.
        distinct_2: share of distinct pairs of neighbouring tokens within a response.
        stop_rate: share of responses that stopped.
        heldout: mean score of each held-out scorer, by its name.
        heldout_deviation: their standard deviations over the responses.
        causes: the limits that this iteration breaks.
    """

    iteration: int
    step: int
    num_responses: int
    kl: float
    score: float
    score_deviation: float
    entropy: float
    response_length: float
    distinct_2: float
    stop_rate: float
    heldout: Mapping[str, float] = field(default_factory=dict)
    heldout_deviation: Mapping[str, float] = field(default_factory=dict)
    causes: Sequence[str] = ()

    @property
    def token_entropy(self) -> float:
        """Nats per token."""
        return self.entropy / max(self.response_length, 1.0)

    def state(self) -> dict[str, object]:
        """The record in types that a weights-only checkpoint admits."""
        return {**asdict(self), "causes": list(self.causes)}


class Finding(NamedTuple):
    """A limit that an iteration breaks."""

    cause: str
    """Short and the same in every iteration: it is warned of once."""
    message: str
    """Value, limit and what to do."""


class _Sign(NamedTuple):
    """A number that must not leave what it was in the first iteration too far behind."""

    option: str
    """The limit: a share of the base."""
    value: str
    base: str
    subject: str
    unit: str
    is_floor: bool
    advice: str


_SIGNS = {
    "kl": _Sign(
        "max_kl",
        "kl",
        "entropy",
        "the KL to the reference",
        "nats per response",
        False,
        "The policy has left the reference far behind: raise kl_coef or use AdaptiveKL, or lower learning_rate.",
    ),
    "entropy": _Sign(
        "min_entropy",
        "token_entropy",
        "token_entropy",
        "the policy's entropy",
        "nats per token",
        True,
        "It hardly varies what it says: raise kl_coef, or lower learning_rate or num_epochs.",
    ),
    "short": _Sign(
        "min_length",
        "response_length",
        "response_length",
        "the response length",
        "tokens",
        True,
        "See whether the reward pays for saying little: add the reward function length with a minimum, or raise "
        "kl_coef.",
    ),
    "long": _Sign(
        "max_length",
        "response_length",
        "response_length",
        "the response length",
        "tokens",
        False,
        "See whether the reward pays for length alone: add the reward function length with a maximum, or raise "
        "kl_coef.",
    ),
    "repetition": _Sign(
        "min_distinct_2",
        "distinct_2",
        "distinct_2",
        "the share of distinct token pairs in a response",
        "",
        True,
        "It repeats itself: add the reward function repetition, or raise kl_coef.",
    ),
    "spread": _Sign(
        "min_score_deviation",
        "score_deviation",
        "score_deviation",
        "the standard deviation of the scores",
        "",
        True,
        "All responses score nearly alike: the reward is met, or one kind of response has taken over. Read some "
        "responses, and end the run or raise kl_coef.",
    ),
    "stop": _Sign(
        "min_stop_rate",
        "stop_rate",
        "stop_rate",
        "the share of responses that stop",
        "",
        True,
        "It no longer comes to an end: set missing_stop_penalty, or raise max_response_length.",
    ),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an iteration may be from the first one. A share that is None, or of a base of zero, sets no limit.

    Args:
        max_kl: KL per response, as a share of the first iteration's entropy per response.
        min_entropy: entropy per token, as a share of the first iteration's.
        min_length: response length, as a share of the first iteration's.
        max_length: likewise, from above.
        min_distinct_2: as a share of the first iteration's.
        min_score_deviation: as a share of the first iteration's.
        min_stop_rate: as a share of the first iteration's.
        max_heldout_drop: how far a held-out score may fall below its best so far, in standard deviations of its scores
            in the first iteration. A drop that chance explains never counts.

    Raises:
        ConfigError: a share that cannot be one.
    """

    max_kl: float | None
    min_entropy: float | None
    min_length: float | None
    max_length: float | None
    min_distinct_2: float | None
    min_score_deviation: float | None
    min_stop_rate: float | None
    max_heldout_drop: float | None

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            require_finite({name: value})
            require(value > 0, name, "be positive or null", f"{value}. null sets no limit")
            if name.startswith("min_") and value >= 1:
                raise ConfigError(f"{name} must be below 1, a share of the first iteration's value, got {value}.")
            if name == "max_length" and value <= 1:
                raise ConfigError(f"max_length must be above 1, a multiple of the first iteration's, got {value}.")

    def findings(self, records: Sequence[IterationRecord]) -> list[Finding]:
        """The limits that the last of the records breaks.

        Args:
            records: of a run from its first iteration on, at least one.
        """
        first, now = records[0], records[-1]
        found = [
            Finding(cause, f"{text}. {sign.advice}")
            for cause, sign in _SIGNS.items()
            if (text := _broken(sign, getattr(self, sign.option), first, now)) is not None
        ]
        return [*found, *self._heldout_drops(records)]

    def _heldout_drops(self, records: Sequence[IterationRecord]) -> Iterator[Finding]:
        now = records[-1]
        for name, value in now.heldout.items():
            seen = [record for record in records if name in record.heldout]
            best = max(seen, key=lambda record: record.heldout[name])
            deviation = next((each for record in seen if (each := record.heldout_deviation[name]) > 0), 0.0)
            if self.max_heldout_drop is None or not deviation:
                continue
            noise = _STANDARD_ERRORS * deviation * math.sqrt(1 / best.num_responses + 1 / now.num_responses)
            drop = max(self.max_heldout_drop * deviation, noise)
            why = f"max_heldout_drop {self.max_heldout_drop:g} x its deviation {deviation:.3g}"
            if drop == noise:
                why = f"{_STANDARD_ERRORS} standard errors of {now.num_responses} responses"
            highest = best.heldout[name]
            limit = highest - drop
            if value < limit:
                yield Finding(
                    f"heldout/{name}",
                    f"the held-out score of {name} must stay above {limit:.3g} ({why} below its best {highest:.3g} of "
                    f"iteration {best.iteration}), got {value:.3g}, while the trained score went from {best.score:.3g} "
                    f"to {now.score:.3g}. {_heldout_advice(now.score > best.score)}",
                )


def _broken(sign: _Sign, share: float | None, first: IterationRecord, now: IterationRecord) -> str | None:
    """`{subject} must {rule}, got {value}` if the limit is broken."""
    value, base = getattr(now, sign.value), getattr(first, sign.base)
    if share is None or not base > 0:
        return None
    limit = share * base
    whose = "entropy" if sign.base != sign.value else "value"
    why = f"{sign.option} {share:g} x the first iteration's {whose} {base:.3g}"
    if sign.value == "stop_rate":  # a share of few responses, of which chance may leave none
        noise = _STANDARD_ERRORS * math.sqrt(base * (1 - base) / now.num_responses)
        if base - noise < limit:
            limit = base - noise
            why = f"{_STANDARD_ERRORS} standard errors of {now.num_responses} responses below the first {base:.3g}"
    if not (value < limit if sign.is_floor else value > limit):
        return None
    side = "above" if sign.is_floor else "below"
    unit = f" {sign.unit}" if sign.unit else ""
    return f"{sign.subject} must stay {side} {limit:.3g}{unit} ({why}), got {value:.3g}"


def _heldout_advice(rose: bool) -> str:
    if rose:
        return (
            "The policy exploits what its reward gets wrong: raise kl_coef, end the run earlier (on_collapse: best), "
            "or train the reward model on responses of this policy."
        )
    return "Both have fallen: lower learning_rate, and look at the responses."
