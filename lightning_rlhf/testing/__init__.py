"""Tests for components: a contract per kind, and texts, tokenizers and a model to try components on.

A plug-in's tests name a component, and pytest runs what every component of its kind must pass:

    from lightning_rlhf.testing import RewardFunctionContract


    class TestPoliteness(RewardFunctionContract):
        component = "politeness"

`lightning-rlhf plugins check` runs the same on everything that is installed. `lightning_rlhf.testing.fixtures` has
fixtures for pytest.
"""

from lightning_rlhf.testing.converters import RankingConverterContract
from lightning_rlhf.testing.datasets import DataSourceContract
from lightning_rlhf.testing.models import ModelSourceContract
from lightning_rlhf.testing.network import without_network
from lightning_rlhf.testing.reward_functions import RewardFunctionContract
from lightning_rlhf.testing.samples import DIALOGUES, HOSTILE_TEXTS, MARKER_TEXTS, RESPONSES
from lightning_rlhf.testing.stand_ins import byte_tokenizer, tiny_model, word_tokenizer
from lightning_rlhf.testing.templates import PromptTemplateContract

__all__ = [
    "DIALOGUES",
    "HOSTILE_TEXTS",
    "MARKER_TEXTS",
    "RESPONSES",
    "DataSourceContract",
    "ModelSourceContract",
    "PromptTemplateContract",
    "RankingConverterContract",
    "RewardFunctionContract",
    "byte_tokenizer",
    "tiny_model",
    "without_network",
    "word_tokenizer",
]
