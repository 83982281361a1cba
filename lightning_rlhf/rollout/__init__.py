"""Rollouts: sampling, scoring, and the loader that turns them into minibatches."""

from lightning_rlhf.rollout.buffer import select_rows
from lightning_rlhf.rollout.collection import CollectedRollout, RolloutSample, RolloutStatistics, collect_rollout
from lightning_rlhf.rollout.evaluation import Evaluation, evaluate_prompts
from lightning_rlhf.rollout.generation import generate_responses
from lightning_rlhf.rollout.loader import RolloutLoader
from lightning_rlhf.rollout.normalization import ScoreNormalizer
from lightning_rlhf.rollout.passes import policy_outputs, response_rows, to_rows
from lightning_rlhf.rollout.reward_functions import RewardFunctionScorer
from lightning_rlhf.rollout.reward_models import RewardModelScorer
from lightning_rlhf.rollout.sampling import SampledResponses, sample_responses
from lightning_rlhf.rollout.scoring import ScorePipeline, Scorer
from lightning_rlhf.rollout.selection import PromptSelection, select_prompts
from lightning_rlhf.rollout.settings import RolloutRuntime, RolloutSettings

__all__ = [
    "CollectedRollout",
    "Evaluation",
    "PromptSelection",
    "RewardFunctionScorer",
    "RewardModelScorer",
    "RolloutLoader",
    "RolloutRuntime",
    "RolloutSample",
    "RolloutSettings",
    "RolloutStatistics",
    "SampledResponses",
    "ScoreNormalizer",
    "ScorePipeline",
    "Scorer",
    "collect_rollout",
    "evaluate_prompts",
    "generate_responses",
    "policy_outputs",
    "response_rows",
    "sample_responses",
    "select_prompts",
    "select_rows",
    "to_rows",
]
