"""Writing `model/`: transformers' own format, with tokenizer, template and what the next stage needs to know."""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.checkpoints.run_files import require_replaceable
from lightning_rlhf.errors import ModelError, TemplateError
from lightning_rlhf.files import whole_folder
from lightning_rlhf.models.adapters import (
    active_adapter,
    adapter_config,
    adapter_state_dict,
    base_fingerprint,
)
from lightning_rlhf.models.language_model import LanguageModel
from lightning_rlhf.models.merging import merged_state_dict, require_savable, whole_model
from lightning_rlhf.models.recorded_template import METADATA_FILE, RecordedTemplate
from lightning_rlhf.models.reward_files import classifier_shell, write_score
from lightning_rlhf.models.scalar_model import ADAPTER_FOLDER, ScalarModel
from lightning_rlhf.models.tokenizers import scoring_pad_id, stop_ids

__all__ = [
    "require_savable_language_model",
    "require_savable_reward_model",
    "save_language_model",
    "save_reward_model",
]

_log = logging.getLogger(__name__)


def save_language_model(
    model: PreTrainedModel | LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    template_record: RecordedTemplate | None,
    merge_adapters: bool = True,
    plugins: Mapping[str, str] | None = None,
) -> None:
    """Writes a language model that `AutoModelForCausalLM` and `load_base` read.

    Args:
        model: left as it is; of several adapters the active one counts.
        tokenizer: left as it is.
        path: the directory; replaced in one step when the new one is whole.
        template_record: the template of training; its stop tokens end generation.
        merge_adapters: write whole weights; otherwise the adapter alone, with the name of its base.
        plugins: versions of the plug-ins that took part, for the record.

    Raises:
        ModelError: an adapter alone whose base has no path or hub id.
        RunDirectoryError: the directory holds what this library has not written.
    """
    transformer = model.model if isinstance(model, LanguageModel) else model
    adapter = active_adapter(transformer)
    metadata = _metadata(template_record, plugins)
    require_replaceable(Path(path))
    with whole_folder(Path(path)) as folder:
        if adapter is not None and not merge_adapters:
            _save_adapter(transformer, adapter, folder, _reloadable(transformer.name_or_path or ""))
        else:
            saved = _merged(transformer)
            saved.generation_config = _generation_config(tokenizer, template_record)
            saved.save_pretrained(folder)
        _templated(tokenizer, template_record).save_pretrained(folder)
        _write_json(folder / METADATA_FILE, metadata)


def require_savable_language_model(model: PreTrainedModel) -> None:
    """Tries `save_language_model` without writing anything.

    Raises:
        ModelError: it would fail.
    """
    require_savable(_merged(model, shapes_only=True))


def require_savable_reward_model(model: ScalarModel) -> None:
    """Tries `save_reward_model` without writing anything.

    Raises:
        ModelError: it would fail.
    """
    scoring = _scoring_model(model, model.backbone.config, shapes_only=True)
    require_savable(scoring)


def save_reward_model(
    model: ScalarModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    template_record: RecordedTemplate | None,
    base_name: str | None = None,
    plugins: Mapping[str, str] | None = None,
) -> None:
    """Writes a reward model that `ScalarModel.load` reads, and `AutoModelForSequenceClassification` where it can.

    Of an architecture without such a class the transformer is written for `AutoModel`, and its head in a file beside
    it.

    Its raw score less `score_offset` of config.json is the score. A model that was trained as an adapter is merged, and
    the adapter is kept beside it, so that a value adapter on the same base can start from it.

    Args:
        model: left as it is.
        tokenizer: left as it is; the saved one pads with an id that ends no response.
        path: the directory; replaced in one step when the new one is whole.
        template_record: the template of training.
        base_name: path or hub id that the adapter was trained on.
        plugins: versions of the plug-ins that took part, for the record.

    Raises:
        RunDirectoryError: the directory holds what this library has not written.
    """
    backbone = model.backbone
    adapter = active_adapter(backbone)
    tokenizer = _templated(tokenizer, template_record)
    pad_id = scoring_pad_id(tokenizer, stop_ids(tokenizer, template_record.stop if template_record else ()))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    tokenizer.padding_side = "right"
    config = copy.deepcopy(backbone.config)
    config.pad_token_id = pad_id
    config.score_offset = model.score_offset
    metadata = _metadata(template_record, plugins)
    require_replaceable(Path(path))
    with whole_folder(Path(path)) as folder:
        scoring = _scoring_model(model, config)
        scoring.save_pretrained(folder)
        if type(scoring) is type(backbone):
            write_score(folder, model.head.weight)
        tokenizer.save_pretrained(folder)
        if adapter is not None:
            _save_adapter(backbone, adapter, folder / ADAPTER_FOLDER, base_name)
            metadata["adapter_base_fingerprint"] = base_fingerprint(backbone)
        _write_json(folder / METADATA_FILE, metadata)


def _merged(model: PreTrainedModel, *, shapes_only: bool = False) -> PreTrainedModel:
    return whole_model(type(model), model.config, merged_state_dict(model, shapes_only=shapes_only))


def _scoring_model(model: ScalarModel, config: PreTrainedConfig, *, shapes_only: bool = False) -> PreTrainedModel:
    """A model of transformers with the weights: the classifier, or the transformer alone where there is none."""
    tensors = merged_state_dict(model.backbone, shapes_only=shapes_only)
    shell = classifier_shell(model.backbone)
    if shell is None:
        config = copy.deepcopy(config)
        config.num_labels = 1
        return whole_model(type(model.backbone), config, tensors)
    tensors = {f"{shell.base_model_prefix}.{key}": tensor for key, tensor in tensors.items()}
    tensors["score.weight"] = model.head.weight.detach()
    if cast(nn.Linear, shell.score).bias is not None:
        tensors["score.bias"] = torch.zeros_like(model.head.bias)  # the bias is in score_offset
    config = copy.deepcopy(config)
    config.num_labels = 1
    return whole_model(type(shell), config, tensors)


def _save_adapter(model: PreTrainedModel, name: str, folder: Path, base_name: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(adapter_config(model, name))
    config.base_model_name_or_path = base_name
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in adapter_state_dict(model, name).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _reloadable(name: str) -> str:
    """The base's name as it can be found again from any working directory."""
    if Path(name).exists():
        return str(Path(name).resolve())
    if "/" in name:
        return name
    raise ModelError(
        f"an adapter that is saved alone must have a base with a path or hub id, got {name or 'none'!r}. Merge it."
    )


def _generation_config(
    tokenizer: PreTrainedTokenizerBase, template_record: RecordedTemplate | None
) -> GenerationConfig:
    stops = list(stop_ids(tokenizer, template_record.stop if template_record else ()))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    eos = stops[0] if len(stops) == 1 else stops or None
    return GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=pad
    )


def _templated(tokenizer: PreTrainedTokenizerBase, template_record: RecordedTemplate | None) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose chat template renders as training did."""
    tokenizer = copy.deepcopy(tokenizer)
    if template_record is None:
        return tokenizer
    try:
        template = template_record.create()
        bound = template.bind(tokenizer)
    except TemplateError as error:  # such as a class of a notebook: no reason to lose a trained model
        _log.warning("no chat template is written: %s", error)
        tokenizer.chat_template = None
        return tokenizer
    if bound is template or hasattr(bound, "chat_template"):
        # a template that knows of no Jinja form leaves none behind, rather than the base's, which renders otherwise
        tokenizer.chat_template = getattr(bound, "chat_template", None)
    return tokenizer  # one that depends on the tokenizer renders by the chat template that is there


def _metadata(template_record: RecordedTemplate | None, plugins: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "template": None if template_record is None else template_record.to_dict(),
        "plugins": dict(plugins or {}),
    }


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
