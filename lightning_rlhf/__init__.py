"""Reinforcement learning from human feedback on PyTorch Lightning.

Importing the package loads no torch: each public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_rlhf.version import __version__

if TYPE_CHECKING:
    from lightning_rlhf.data import DemonstrationData, PromptData, RankingData, RLHFData
    from lightning_rlhf.models.adapters import LoRA
    from lightning_rlhf.modules import AdaptiveKL, FixedKL, PPOModule, RewardModule, RLHFModule, SFTModule
    from lightning_rlhf.plugin_system.component import Component
    from lightning_rlhf.plugin_system.hookspecs import hookimpl
    from lightning_rlhf.plugin_system.interfaces import (
        DataSource,
        ModelSource,
        PromptTemplate,
        RankingConverter,
        RewardFunction,
        Segment,
    )
    from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Text

__all__ = [
    "AdaptiveKL",
    "Component",
    "DataSource",
    "Demonstration",
    "DemonstrationData",
    "FixedKL",
    "LoRA",
    "Message",
    "ModelSource",
    "PPOModule",
    "Prompt",
    "PromptData",
    "PromptTemplate",
    "RLHFData",
    "RLHFModule",
    "Ranking",
    "RankingConverter",
    "RankingData",
    "RewardFunction",
    "RewardModule",
    "SFTModule",
    "Segment",
    "Text",
    "__version__",
    "hookimpl",
]

_MODULE_OF = {
    "AdaptiveKL": "lightning_rlhf.modules",
    "Component": "lightning_rlhf.plugin_system.component",
    "DataSource": "lightning_rlhf.plugin_system.interfaces",
    "Demonstration": "lightning_rlhf.records",
    "DemonstrationData": "lightning_rlhf.data",
    "FixedKL": "lightning_rlhf.modules",
    "LoRA": "lightning_rlhf.models.adapters",
    "Message": "lightning_rlhf.records",
    "ModelSource": "lightning_rlhf.plugin_system.interfaces",
    "PPOModule": "lightning_rlhf.modules",
    "Prompt": "lightning_rlhf.records",
    "PromptData": "lightning_rlhf.data",
    "PromptTemplate": "lightning_rlhf.plugin_system.interfaces",
    "RLHFData": "lightning_rlhf.data",
    "RLHFModule": "lightning_rlhf.modules",
    "Ranking": "lightning_rlhf.records",
    "RankingConverter": "lightning_rlhf.plugin_system.interfaces",
    "RankingData": "lightning_rlhf.data",
    "RewardFunction": "lightning_rlhf.plugin_system.interfaces",
    "RewardModule": "lightning_rlhf.modules",
    "SFTModule": "lightning_rlhf.modules",
    "Segment": "lightning_rlhf.plugin_system.interfaces",
    "Text": "lightning_rlhf.records",
    "hookimpl": "lightning_rlhf.plugin_system.hookspecs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
