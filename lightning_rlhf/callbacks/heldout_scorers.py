"""Scorers that the policy is never rewarded by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoadedScalarModel, ScalarModel
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.rollout import ScorePipeline
from lightning_rlhf.rollout.normalization import global_moments
from lightning_rlhf.rollout.responses import Responses
from lightning_rlhf.rollout.scoring import is_rated

__all__ = ["HeldoutScorers"]


class HeldoutScorers:
    """Scores responses beside a run and leaves no trace in it: no weight, no gradient, no random number.

    Args:
        reward_models: directories or hub ids.
        functions: reward functions.
    """

    def __init__(self, reward_models: Sequence[str], functions: Sequence[RewardFunction]) -> None:
        self.reward_models = list(reward_models)
        self.functions = list(functions)
        self._loaded: list[LoadedScalarModel] = []
        self._pipeline: ScorePipeline | None = None

    def __bool__(self) -> bool:
        return bool(self.reward_models or self.functions)

    def load(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Loads the reward models, as the module loads its own.

        Raises:
            ConfigError: one of them is what the policy is rewarded by.
            ModelError: one cannot be loaded.
        """
        trained = pl_module.hparams.get("reward_model") or []
        trained = [trained] if isinstance(trained, str) else trained
        for name in self.reward_models:
            if _place(name) in {_place(other) for other in trained}:
                raise ConfigError(
                    f"heldout_reward_model must be one that the policy is not rewarded by, got {name!r}, which is in "
                    "reward_model. Name one that was trained on other rankings."
                )
        with isolate_rng():
            self._loaded = [
                ScalarModel.load(name, trust_remote_code=bool(pl_module.hparams.get("trust_remote_code")))
                for name in self.reward_models
            ]
        for loaded in self._loaded:
            loaded.model.requires_grad_(False).eval()
            trainer.precision_plugin.convert_module(loaded.model).to(trainer.strategy.root_device)
        self._pipeline = None

    def unload(self) -> None:
        """Frees the reward models."""
        self._loaded, self._pipeline = [], None

    def moments(self, pl_module: Any, responses: Responses) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the responses of all ranks, by scorer.

        Raises:
            ScorerError: a scorer gave something unusable.
        """
        if not self:
            return {}
        if self._pipeline is None:
            self._pipeline = pl_module.heldout_pipeline(self._loaded, self.functions)
        with isolate_rng(), torch.no_grad():
            scores = self._pipeline.weighted(responses).by_scorer
        reduce = pl_module.rollout_runtime().reduce
        moments = {name: global_moments(values, is_rated(values), reduce) for name, values in scores.items()}
        return {name: (mean, variance**0.5) for name, (count, mean, variance) in moments.items() if count}


def _place(name: str) -> str:
    """The same for two ways to write a folder."""
    return str(Path(name).resolve()) if Path(name).exists() else name
