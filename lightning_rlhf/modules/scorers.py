"""The reward models and reward functions of a run, and the pipeline that they make."""

from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from lightning_rlhf.arguments import require
from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.models import LoadedScalarModel, ScalarModel
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

__all__ = ["RunScorers", "Surroundings"]


_OF_SCORES = {"reward_model", "rewards", "reward_weights", "converter"}
"""Arguments that decide which scores a normaliser sees."""


class Surroundings(NamedTuple):
    """What data and Trainer bring along to scorers."""

    formatter: PromptFormatter
    """The policy's template and tokenizer; a reward model without a recorded template gets this one."""
    batch_size: int
    """Rows per pass of a reward model."""
    precision: Callable[[], AbstractContextManager[Any]]
    """Context of those passes."""


class RunScorers:
    """Who rates the responses of a run, and how their scores count.

    Args:
        reward_models: directories or hub ids.
        functions: reward functions, logged under their short names.
        weights: one per scorer, reward models first; None: 1 each.
        converter: ranks a prompt's responses, or None.
        normalizer: of the weighted sum, or None.
        timeout_s: seconds that a call of a reward function may take, or None.

    Raises:
        ConfigError: no scorer, weights that do not fit them, or a limit that is not positive.
    """

    def __init__(
        self,
        reward_models: Sequence[str],
        functions: Sequence[RewardFunction],
        *,
        weights: Sequence[float] | None,
        converter: RankingConverter | None,
        normalizer: ScoreNormalizer | None,
        timeout_s: float | None,
    ) -> None:
        number = len(reward_models) + len(functions)
        require(number > 0, "PPOModule", "have a reward_model or rewards", "neither")
        if weights is not None:
            require(len(weights) == number, "reward_weights", f"have one entry per scorer ({number})", len(weights))
        require(timeout_s is None or timeout_s > 0, "reward_timeout_s", "be positive or null", timeout_s)
        self.functions = list(functions)
        self.weights = weights
        self.converter = converter
        self.normalizer = normalizer
        self.timeout_s = timeout_s
        self._names = list(reward_models)
        self._loaded: list[LoadedScalarModel] = []

    def load(self, *, trust_remote_code: bool) -> list[LoadedScalarModel]:
        """Loads the reward models.

        Args:
            trust_remote_code: run Python code that comes with them.
        """
        self._loaded = [ScalarModel.load(name, trust_remote_code=trust_remote_code) for name in self._names]
        return self._loaded

    def resume(self, moments: dict[str, Any] | None, changed: Set[str]) -> None:
        """Goes on from saved moments of the scores, unless they are of other scores than those of this run.

        Args:
            moments: of the normaliser that a checkpoint was written with.
            changed: arguments that the run has otherwise than the one that wrote it.
        """
        if self.normalizer is None or moments is None:
            return
        if others := sorted(_OF_SCORES & changed):
            rank_zero_warn(
                f"the running moments of the scores begin anew: {', '.join(others)} changed, and those in the "
                "checkpoint are of other scores."
            )
            return
        self.normalizer.load_state_dict(moments)

    def pipeline(self, around: Surroundings) -> ScorePipeline:
        """What the policy is rewarded by: reward models, each with its own tokenizer and template, then functions.

        Args:
            around: of the run.
        """
        scorers = self._scorers(self._loaded, self.functions, around)
        return ScorePipeline(scorers, weights=self.weights, converter=self.converter, normalizer=self.normalizer)

    def heldout_pipeline(
        self,
        reward_models: Sequence[LoadedScalarModel],
        functions: Sequence[RewardFunction],
        around: Surroundings,
    ) -> ScorePipeline:
        """Other scorers in the same surroundings.

        Args:
            reward_models: as loaded.
            functions: reward functions.
            around: of the run.
        """
        return ScorePipeline(self._scorers(reward_models, functions, around))

    def _scorers(
        self,
        reward_models: Sequence[LoadedScalarModel],
        functions: Sequence[RewardFunction],
        around: Surroundings,
    ) -> list[Scorer]:
        formatter, batch_size, precision = around
        scorers: list[Scorer] = []
        for source in reward_models:
            template = formatter.template if source.template is None else source.template.create()
            own = PromptFormatter(template, source.tokenizer, formatter.moment)
            scorers.append(
                RewardModelScorer(
                    "reward_model", source.model, own, formatter, batch_size=batch_size, precision=precision
                )
            )
        for function in functions:
            name = type(function).__name__
            scorers.append(RewardFunctionScorer(function, name, timeout_s=self.timeout_s, plugin=_plugin_of(function)))
        return scorers


def _plugin_of(component: object) -> str:
    """Distribution and version that a component comes from; empty for a built-in one and a person's own class."""
    versions = versions_in_use(plugin_manager(), [component])
    return " and ".join(f"{name} {version}" for name, version in versions.items() if name != BUILTIN)
