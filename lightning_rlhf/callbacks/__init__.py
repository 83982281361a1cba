"""Callbacks that modules bring along, so that a plain Trainer does what the command line does, and that users name."""

from lightning_rlhf.callbacks.averaged_weights import averaged_weights
from lightning_rlhf.callbacks.collapse_watch import CollapseWatch
from lightning_rlhf.callbacks.learning_watch import LearningWatch
from lightning_rlhf.callbacks.model_export import ModelExport
from lightning_rlhf.callbacks.non_finite_guard import NonFiniteGuard
from lightning_rlhf.callbacks.rollout_callback import RolloutCallback
from lightning_rlhf.callbacks.sample_table import Sample, SampleTable

__all__ = [
    "CollapseWatch",
    "LearningWatch",
    "ModelExport",
    "NonFiniteGuard",
    "RolloutCallback",
    "Sample",
    "SampleTable",
    "averaged_weights",
]
