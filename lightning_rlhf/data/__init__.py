"""Data modules: from a source's records to the batches of `lightning_rlhf.batches`."""

from lightning_rlhf.data.demonstrations import DemonstrationData
from lightning_rlhf.data.loading import BatchLoader, WindowLoader
from lightning_rlhf.data.module import RLHFData
from lightning_rlhf.data.prompts import PromptData, PromptDataset, PtxBatches
from lightning_rlhf.data.rankings import RankingData
from lightning_rlhf.data.template_choice import choose_template, record_of, same_rendering
from lightning_rlhf.data.tokenization import Encoded, PromptFormatter

__all__ = [
    "BatchLoader",
    "DemonstrationData",
    "Encoded",
    "PromptData",
    "PromptDataset",
    "PromptFormatter",
    "PtxBatches",
    "RLHFData",
    "RankingData",
    "WindowLoader",
    "choose_template",
    "record_of",
    "same_rendering",
]
