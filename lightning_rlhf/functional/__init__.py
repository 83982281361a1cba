"""The formulas: pure functions of tensors that know torch alone.

All masks are bool, True = keep, and what stands under a False changes neither value nor gradient. Nothing is computed
in less than float32, and float64 stays float64. Losses are minimised; `num_targets` and `num_prompts` are their
denominators over the accumulation window and all ranks, None = counted in the call.
"""

from lightning_rlhf.functional.advantages import generalized_advantage_estimation
from lightning_rlhf.functional.kl import KL_ESTIMATORS, kl_k1, kl_k2, kl_k3
from lightning_rlhf.functional.logprobs import token_entropy, token_logprobs
from lightning_rlhf.functional.masking import masked_mean, masked_whiten
from lightning_rlhf.functional.ppo import approx_kl, clip_fraction, clipped_policy_loss, clipped_value_loss
from lightning_rlhf.functional.ranking import (
    centering_penalty,
    pairwise_ranking_loss,
    plackett_luce_loss,
    ranking_accuracy,
    regression_loss,
)
from lightning_rlhf.functional.rewards import shape_rewards
from lightning_rlhf.functional.sequences import completion_mask, position_ids
from lightning_rlhf.functional.statistics import explained_variance
from lightning_rlhf.functional.supervised import next_token_loss, token_cross_entropy

__all__ = [
    "KL_ESTIMATORS",
    "approx_kl",
    "centering_penalty",
    "clip_fraction",
    "clipped_policy_loss",
    "clipped_value_loss",
    "completion_mask",
    "explained_variance",
    "generalized_advantage_estimation",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "masked_mean",
    "masked_whiten",
    "next_token_loss",
    "pairwise_ranking_loss",
    "plackett_luce_loss",
    "position_ids",
    "ranking_accuracy",
    "regression_loss",
    "shape_rewards",
    "token_cross_entropy",
    "token_entropy",
    "token_logprobs",
]
