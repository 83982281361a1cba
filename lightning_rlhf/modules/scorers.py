"""Reward models and reward functions as one pipeline."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.models import LoadedScalarModel
from lightning_rlhf.plugin_system.interfaces import RankingConverter, RewardFunction
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
    weights: Sequence[float],
    converter: RankingConverter | None,
    normalizer: ScoreNormalizer | None,
    batch_size: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> ScorePipeline:
    """Reward models, each with its own tokenizer and template, then reward functions.

    Args:
        reward_models: as loaded; one without a recorded template gets the policy's.
        functions: components, logged under their short names.
        formatter: the policy's template and tokenizer.
        weights: one per scorer.
        converter: ranks a prompt's responses, or None.
        normalizer: of the weighted sum, or None.
        batch_size: rows per pass of a reward model.
        precision: context of those passes.
    """
    scorers: list[Scorer] = []
    for source in reward_models:
        template = formatter.template if source.template is None else source.template.create()
        own = PromptFormatter(template, source.tokenizer)
        scorers.append(
            RewardModelScorer("reward_model", source.model, own, formatter, batch_size=batch_size, precision=precision)
        )
    scorers += [RewardFunctionScorer(function, type(function).__name__) for function in functions]
    return ScorePipeline(scorers, weights=weights, converter=converter, normalizer=normalizer)
