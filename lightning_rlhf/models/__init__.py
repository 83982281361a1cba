"""Language models, reward and value models, adapters, and their files."""

from lightning_rlhf.models.actor_critic import (
    ActorCritic,
    AdapterActorCritic,
    SeparateActorCritic,
    SharedActorCritic,
    build_actor_critic,
)
from lightning_rlhf.models.adapters import LoRA, add_adapter, without_adapters
from lightning_rlhf.models.dropout import disable_dropout, evaluation_mode
from lightning_rlhf.models.language_model import LanguageModel, LanguageModelOutput
from lightning_rlhf.models.loading import LoadedModel, load_base
from lightning_rlhf.models.merging import merged_state_dict
from lightning_rlhf.models.recorded_template import RecordedTemplate, read_recorded_template
from lightning_rlhf.models.saving import (
    require_savable_language_model,
    require_savable_reward_model,
    save_language_model,
    save_reward_model,
)
from lightning_rlhf.models.scalar_model import LoadedScalarModel, ScalarHead, ScalarModel
from lightning_rlhf.models.scoring_base import ScoringBase, load_scoring_base
from lightning_rlhf.models.tokenizers import stop_ids, tokenizers_equal
from lightning_rlhf.models.transformer_call import enable_gradient_checkpointing, require_packing
from lightning_rlhf.models.trial import require_trainable_adapters

__all__ = [
    "ActorCritic",
    "AdapterActorCritic",
    "LanguageModel",
    "LanguageModelOutput",
    "LoRA",
    "LoadedModel",
    "LoadedScalarModel",
    "RecordedTemplate",
    "ScalarHead",
    "ScalarModel",
    "ScoringBase",
    "SeparateActorCritic",
    "SharedActorCritic",
    "add_adapter",
    "build_actor_critic",
    "disable_dropout",
    "enable_gradient_checkpointing",
    "evaluation_mode",
    "load_base",
    "load_scoring_base",
    "merged_state_dict",
    "read_recorded_template",
    "require_packing",
    "require_savable_language_model",
    "require_savable_reward_model",
    "require_trainable_adapters",
    "save_language_model",
    "save_reward_model",
    "stop_ids",
    "tokenizers_equal",
    "without_adapters",
]
