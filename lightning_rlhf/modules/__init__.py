"""The three stages as LightningModules."""

from lightning_rlhf.modules.base import RLHFModule
from lightning_rlhf.modules.kl_controllers import AdaptiveKL, FixedKL, KLController
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.modules.reward import RewardModule
from lightning_rlhf.modules.sft import SFTModule

__all__ = ["AdaptiveKL", "FixedKL", "KLController", "PPOModule", "RLHFModule", "RewardModule", "SFTModule"]
