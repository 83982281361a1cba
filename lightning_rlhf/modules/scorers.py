"""Reward models and reward functions as one pipeline."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.models import LoadedScalarModel
from lightning_rlhf.plugin_system.discovery import BUILTIN
from lightning_rlhf.plugin_system.interfaces import RankingConverter, RewardFunction
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.plugin_system.provenance import versions_in_use
from lightning_rlhf.rollout import (
    RewardFunctionScorer,
    RewardModelScorer,
    ScoreNormalizer,
    ScorePipeline,
    Scorer,
)

__all__ = ["build_pipeline"]


def build_pipeline(
    reward_models: Sequence[LoadedScalarModel],
    functions: Sequence[RewardFunction],
    formatter: PromptFormatter,
    *,
    batch_size: int,
    precision: Callable[[], AbstractContextManager[Any]],
    timeout_s: float | None,
    weights: Sequence[float] | None = None,
    converter: RankingConverter | None = None,
    normalizer: ScoreNormalizer | None = None,
) -> ScorePipeline:
    """Reward models, each with its own tokenizer and template, then reward functions.

    Args:
        reward_models: as loaded; one without a recorded template gets the policy's.
        functions: components, logged under their short names.
        formatter: the policy's template and tokenizer.
        batch_size: rows per pass of a reward model.
        precision: context of those passes.
        timeout_s: seconds that a call of a reward function may take, or None.
        weights: one per scorer; default 1 each.
        converter: ranks a prompt's responses, or None.
        normalizer: of the weighted sum, or None.
    """
    scorers: list[Scorer] = []
    for source in reward_models:
        template = formatter.template if source.template is None else source.template.create()
        own = PromptFormatter(template, source.tokenizer)
        scorers.append(
            RewardModelScorer("reward_model", source.model, own, formatter, batch_size=batch_size, precision=precision)
        )
    for function in functions:
        name = type(function).__name__
        scorers.append(RewardFunctionScorer(function, name, timeout_s=timeout_s, plugin=_plugin_of(function)))
    return ScorePipeline(scorers, weights=weights, converter=converter, normalizer=normalizer)


def _plugin_of(component: object) -> str:
    """Distribution and version that a component comes from; empty for a built-in one and a person's own class."""
    versions = versions_in_use(plugin_manager(), [component])
    return " and ".join(f"{name} {version}" for name, version in versions.items() if name != BUILTIN)
