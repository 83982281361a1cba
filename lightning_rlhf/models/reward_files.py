"""The files of a reward model: a classifier of transformers, or a transformer with its head in a file beside it.

Architectures that transformers has no sequence-classification class for are written as the transformer alone, which
`AutoModel` reads, and the head's weights `(1, H)` as `score.weight` of `score.safetensors`.
"""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.adapters import headless
from lightning_rlhf.models.model_files import cached_model_file, read_json

__all__ = [
    "SCORE_FILE",
    "classifier_shell",
    "is_reward_model",
    "read_backbone",
    "require_one_label",
    "require_readable",
    "write_score",
]

SCORE_FILE = "score.safetensors"
_SCORE = "score.weight"


def classifier_shell(backbone: PreTrainedModel) -> PreTrainedModel | None:
    """The sequence-classification model with one label and a linear `score` on such a transformer, without memory.

    Args:
        backbone: a headless transformer.

    Returns:
        None where transformers has none.
    """
    config = backbone.config
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None
    copied = copy.deepcopy(config)
    copied.num_labels = 1
    with torch.device("meta"):
        shell = cast(type[PreTrainedModel], MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)])(copied)
    fits = isinstance(getattr(shell, "score", None), nn.Linear) and type(headless(shell)) is type(backbone)
    return shell if fits else None


def require_readable(backbone: PreTrainedModel) -> None:
    """Refuses a transformer that transformers could not read again by itself.

    Raises:
        ModelError: it could not.
    """
    config = backbone.config
    known: Any = MODEL_MAPPING.get(type(config), ())
    own_code = "AutoModel" in (getattr(config, "auto_map", None) or {})
    if not own_code and type(backbone) not in (known if isinstance(known, tuple | list) else (known,)):
        raise ModelError(
            "a reward or value model must be a transformer that AutoModel of transformers can load, got a "
            f"{type(backbone).__name__} of the architecture {config.model_type!r}. Start it from another base."
        )


def is_reward_model(name: str) -> bool:
    """Whether a model directory or hub id says that it holds a model with a head for scores.

    Raises:
        ModelError: its config cannot be read.
    """
    if Path(name).is_file():
        return False
    return _says_classifier(read_json(name, "config.json").get("architectures")) or _has_score(name)


def require_one_label(name: str, config: PreTrainedConfig) -> None:
    """Refuses what is no reward model.

    Raises:
        ModelError: it holds no head, or one for several labels.
    """
    architectures = getattr(config, "architectures", None)
    if not _says_classifier(architectures) and not _has_score(name):
        raise ModelError(
            f"a reward model must hold a head, got {name!r}, which is a {(architectures or ['unknown'])[0]} without "
            "one. Train it with RewardModule, and name its `model` directory."
        )
    if config.num_labels != 1:
        raise ModelError(f"a reward model must have one label, got {name!r} with {config.num_labels}.")


def read_backbone(
    name: str, config: PreTrainedConfig, *, trust_remote_code: bool
) -> tuple[PreTrainedModel, Tensor, float]:
    """The transformer of a reward model, its head's weights `(1, H)`, and the head's own bias, 0 where it has none.

    Args:
        name: directory or hub id.
        config: of its files.
        trust_remote_code: run Python code that comes with the files.

    Raises:
        ModelError: weights are missing.
    """
    kind = AutoModel if _has_score(name) else AutoModelForSequenceClassification
    model, info = kind.from_pretrained(
        name,
        config=config,
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        weights_only=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    head = None if kind is AutoModel else getattr(model, "score", None)
    if missing or (kind is not AutoModel and not isinstance(head, nn.Linear)):
        raise ModelError(
            f"reward model {name!r} must hold its head, got no weights for {', '.join(missing[:3]) or 'score'}."
        )
    if not isinstance(head, nn.Linear):
        return model, _read_score(name), 0.0
    bias = 0.0 if head.bias is None else float(head.bias.detach())
    return cast(PreTrainedModel, headless(model)), head.weight.detach(), bias


def write_score(folder: Path, weight: Tensor) -> None:
    """Writes the head's weights `(1, H)` beside the transformer's."""
    save_file({_SCORE: weight.detach().cpu().contiguous()}, folder / SCORE_FILE, metadata={"format": "pt"})


def _says_classifier(architectures: Any) -> bool:
    return bool(architectures) and str(architectures[0]).endswith("ForSequenceClassification")


def _has_score(name: str) -> bool:
    return cached_model_file(name, SCORE_FILE) is not None


def _read_score(name: str) -> Tensor:
    try:
        tensors = load_file(cast(Path, cached_model_file(name, SCORE_FILE)))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{SCORE_FILE} of {name!r} must be readable safetensors, got {error}.") from error
    weight = tensors.get(_SCORE)
    if weight is None or weight.dim() != 2 or len(weight) != 1:
        found = "none" if weight is None else f"one of the shape {tuple(weight.shape)}"
        raise ModelError(f"{SCORE_FILE} of {name!r} must hold {_SCORE} of the shape (1, hidden size), got {found}.")
    return weight
