"""Advice on lengths that the model's positions allow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.modules import PPOModule

__all__ = ["length_argument", "length_fix", "positions_fix", "room_for_rows"]


def length_argument(subject: Subject) -> str:
    """The option that limits the rows of a stage."""
    return "max_prompt_length" if subject.stage == "ppo" else "max_length"


def room_for_rows(subject: Subject) -> int | None:
    """Tokens that a row may have so that it, and in PPO the response to it, fit the model; None: no limit is known."""
    positions = subject.module.max_positions
    return None if positions is None else positions - _response_length(subject)


def length_fix(subject: Subject, lengths: Sequence[int]) -> str:
    """What to do about rows that are cut.

    Args:
        subject: the run.
        lengths: tokens of each row if nothing were cut.
    """
    argument, room = length_argument(subject), room_for_rows(subject)
    limit: int = getattr(subject.data, argument)
    most = int(np.percentile(lengths, 95))
    if room is None or most <= room:
        return f"Set --data.{argument} {most} to keep 95 % of the rows whole, if model and memory allow."
    beside = f" beside a response of {_response_length(subject)}" if subject.stage == "ppo" else ""
    positions = f"the model's {subject.module.max_positions} positions{beside}"
    others = f"{_other_ways(subject)}shorten the rows, or take a base of {most + _response_length(subject)} positions."
    if limit < room:
        whole = np.mean([length <= room for length in lengths])
        return (
            f"Set --data.{argument} {room}, all that {positions} allow: it keeps {whole:.0%} of the rows whole. "
            f"For the others {others}"
        )
    return f"No longer rows fit {positions}: {others}"


def positions_fix(subject: Subject, longest: int) -> str:
    """What to do about rows that the model has no positions for.

    Args:
        subject: the run.
        longest: tokens of the longest row, without a response.
    """
    argument, room = length_argument(subject), room_for_rows(subject)
    assert room is not None
    larger = f"take a base of {longest + _response_length(subject)} positions"
    if room > 0:
        shorter = f", or --model.max_response_length {left}" if (left := _room_for_responses(subject, longest)) else ""
        return f"Set --data.{argument} {room}{shorter if subject.stage == 'ppo' else ''}, or {larger}."
    return f"Lower --model.max_response_length, so that prompt and response fit the positions together, or {larger}."


def _room_for_responses(subject: Subject, longest: int) -> int:
    return max((subject.module.max_positions or 0) - longest, 0)


def _other_ways(subject: Subject) -> str:
    chosen: Any = getattr(subject.data, "truncation", None)
    if chosen is None:
        return ""
    offered = ("turns", "left", "right", "drop", *(("window",) if subject.stage == "sft" else ()))
    return f"choose what goes with --data.truncation ({', '.join(offered)}; it is {chosen}), "


def _response_length(subject: Subject) -> int:
    return subject.module.settings.max_response_length if isinstance(subject.module, PPOModule) else 0
