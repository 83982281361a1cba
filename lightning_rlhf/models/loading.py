"""Where a language model comes from: a component, a path or a hub id."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from lightning_rlhf.errors import LightningRLHFError, ModelError, PluginError
from lightning_rlhf.models.activations import fuse_activations
from lightning_rlhf.models.adapters import output_layer, without_advice
from lightning_rlhf.models.merging import separate_shared_tensors, tie_equal_tensors
from lightning_rlhf.models.model_files import HOW_TO_CONVERT, read_adapter_config, read_config, require_safe_adapter
from lightning_rlhf.models.origin import mark_origin
from lightning_rlhf.models.recorded_template import RecordedTemplate, read_recorded_template
from lightning_rlhf.models.reward_files import is_reward_model
from lightning_rlhf.models.tokenizers import end_with_a_token, require_sound
from lightning_rlhf.plugin_system.interfaces import ModelSource

__all__ = ["LoadedModel", "load_base", "reading", "resolve_base", "resolve_reward_model", "train_every_embedding"]

_CHECK = "Check the path or hub id; a hub id needs the network unless it is cached."
_RESIZED = (
    "An adapter fits the very base that it was trained on: one whose vocabulary was resized must be saved with its new "
    "size and named in base_model_name_or_path."
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LoadedModel(NamedTuple):
    """A causal language model with what belongs to it."""

    model: PreTrainedModel
    """In fp32, on the CPU, in evaluation mode; any adapter merged."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    """The path or hub id that loads it again, or the class name of the component."""
    template: RecordedTemplate | None
    """The template that it was trained with, where its directory says so."""


def load_base(base: str | ModelSource, *, trust_remote_code: bool = False) -> LoadedModel:
    """Loads a causal language model and its tokenizer.

    Args:
        base: a model component or its name, an existing path (a directory or a .gguf file), or a hub id, which has a
            slash. A directory that holds an adapter is merged into its own base.
        trust_remote_code: run Python code that comes with the files.

    Raises:
        ModelError: the name means nothing or two things, or the files cannot be loaded as a causal language model.
    """
    source = resolve_base(base) if isinstance(base, str) else base
    if isinstance(source, ModelSource):
        return _load_component(source)
    with reading(source):
        if Path(source).suffix == ".gguf":
            model, tokenizer = _load_gguf(Path(source))
        elif (adapter := find_adapter_config_file(source)) is not None:
            return _load_adapter(source, adapter, trust_remote_code=trust_remote_code)
        else:
            model = _load_pretrained(source, trust_remote_code=trust_remote_code)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    template = None if Path(source).is_file() else read_recorded_template(source)
    return LoadedModel(_prepared(model, tokenizer, source), tokenizer, source, template)


def resolve_base(base: str) -> ModelSource | str:
    """The component that a name means, or the path or hub id itself.

    Raises:
        ModelError: neither, or both a component and a path.
    """
    path = Path(base).expanduser()
    component = _component(base)
    if path.exists():
        if isinstance(component, ModelSource):
            raise ModelError(
                f"base must mean one thing, got {base!r}, which is a model component and a path. "
                f"Write ./{base} for the path, or rename it."
            )
        if not path.is_dir() and path.suffix != ".gguf":
            raise ModelError(f"base must be a directory or a .gguf file, got the file {base!r}.")
        if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ModelError(
                f"base must be a directory with config.json or adapter_config.json, got {base!r} without."
                f"{_inside(path)}"
            )
        return str(path)
    if isinstance(component, ModelSource):
        return component
    if _HUB_ID.fullmatch(base) and not base.startswith("."):
        return base
    if "/" in base or "\\" in base or path.suffix == ".gguf":
        raise ModelError(f"base must be an existing path, got {base!r}, which does not exist.")
    raise ModelError(
        f"base must be a model component, an existing path or a hub id (which has a slash), got {base!r}. {component}"
    )


def resolve_reward_model(name: str) -> str:
    """The directory or hub id that a name means; the network is not asked about names that are neither.

    Raises:
        ModelError: it is neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise ModelError(f"reward_model must be a directory with config.json, got {name!r} without.{_inside(path)}")
        return str(path)
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return name
    raise ModelError(
        f"reward_model must be an existing directory or a hub id (owner/name), got {name!r}. Name the `model` "
        "directory of a RewardModule's run."
    )


def _inside(path: Path) -> str:
    """A hint at what is one folder further down: the root of a run was named instead of its model."""
    return f" Did you mean {path / 'model'}?" if (path / "model" / "config.json").is_file() else ""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever is raised about unreadable files into a `ModelError`."""
    try:
        yield
    except LightningRLHFError:
        raise
    except Exception as error:  # transformers, safetensors, gguf and pickle each raise kinds of their own
        text = str(error)
        if "trust_remote_code" in text:
            raise ModelError(
                f"{name!r} must load without Python code of its own, got files that name some. Read that code, and set "
                "trust_remote_code to true to run it."
            ) from error
        if "use_safetensors" in text:
            raise ModelError(f"the weights of {name!r} must be safetensors, got none. {HOW_TO_CONVERT}") from error
        raise ModelError(
            f"{name!r} must be a model that transformers can load, got {type(error).__name__}: {_reason(text)}. "
            f"{_RESIZED if 'size mismatch' in text else _CHECK}"
        ) from error


def _reason(text: str) -> str:
    """The first line of an error's text; of a list what it is of and its first entry."""
    lines = [line.strip() for line in text.strip().splitlines()] or ["no reason given"]
    if not lines[0].endswith(":") or len(lines) < 2:
        return lines[0].rstrip(".")
    more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
    return f"{lines[0]} {lines[1].rstrip('.')}{more}"


def _component(name: str) -> ModelSource | str:
    """The component of that name, or why there is none."""
    from lightning_rlhf.registry import create, lookup

    try:
        lookup("model", name)
    except PluginError as error:
        return str(error)
    source = create("model", name)
    assert isinstance(source, ModelSource)
    return source


def _load_component(source: ModelSource) -> LoadedModel:
    name = type(source).__name__
    model, tokenizer = source.load()
    if not isinstance(model, PreTrainedModel) or output_layer(model) is None:
        raise ModelError(f"load() of {name} must return a causal language model, got {type(model).__name__}.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(f"load() of {name} must return a tokenizer, got {type(tokenizer).__name__}.")
    prepared = _prepared(model, tokenizer, name)
    mark_origin(prepared, name if source.reproducible else None)
    return LoadedModel(prepared, tokenizer, name, None)


def _load_pretrained(name: str, *, trust_remote_code: bool) -> PreTrainedModel:
    config = read_config(name, trust_remote_code=trust_remote_code)
    if is_reward_model(name):
        kind = next(iter(getattr(config, "architectures", None) or []), config.model_type)
        raise ModelError(
            f"base must be a causal language model, got {name!r}, a reward model ({kind}). Name the model that it was "
            "trained from."
        )
    _require_causal(name, config, trust_remote_code=trust_remote_code)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name,
        config=config,
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        weights_only=True,
        output_loading_info=True,
    )
    model: PreTrainedModel = loaded[0]
    _require_whole(name, loaded[1])
    return model


def _require_causal(name: str, config: PreTrainedConfig, *, trust_remote_code: bool) -> None:
    own_code = trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if own_code or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    kind = next(iter(getattr(config, "architectures", None) or []), config.model_type)
    advice = "Name a causal language model."
    if getattr(config, "text_config", None) is not None:
        advice = (
            "Load it with transformers once, and write its language model and tokenizer alone with save_pretrained."
        )
    raise ModelError(f"base must be a causal language model, got {name!r}, a {kind}, which is none. {advice}")


def _require_whole(name: str, info: dict[str, Any]) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(f"{name!r} must hold all weights of a causal language model, got none for {shown}.")


def _load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,  # not None: transformers would look for code beside the file, and ask about it
    )
    # dense from here on: it trains, saves and loads as if it had never been quantized
    for holder in (model.config, model):
        for attribute in ("quantization_config", "hf_quantizer", "quantization_method", "is_quantized"):
            holder.__dict__.pop(attribute, None)
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)


def _load_adapter(name: str, config_file: str, *, trust_remote_code: bool) -> LoadedModel:
    settings = read_adapter_config(name, config_file)
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"the adapter in {name!r} must name its base model, got none. Add base_model_name_or_path.")
    require_safe_adapter(name)
    below = load_base(base, trust_remote_code=trust_remote_code)
    model = _merged(below.model, name, settings.get("layer_replication"))
    tokenizer = below.tokenizer
    if _has_tokenizer(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    template = read_recorded_template(name) or below.template
    return LoadedModel(_prepared(model, tokenizer, name), tokenizer, name, template)


def _merged(base: PreTrainedModel, name: str, replication: list[tuple[int, int]] | None) -> PreTrainedModel:
    """The model that an adapter makes of its base, which is taken over."""
    from peft import PeftModel

    num_layers = getattr(base.config, "num_hidden_layers", None)
    with without_advice():
        adapted = PeftModel.from_pretrained(base, name, torch_device="cpu")
        ties = getattr(base.config, "tie_word_embeddings", False)
        separate_shared_tensors(base)
        model: PreTrainedModel = adapted.merge_and_unload()
    model.__dict__.pop("peft_config", None)
    if replication:
        order = [layer for start, end in replication for layer in range(start, end)]
        for setting, value in vars(model.config).items():  # such as each layer's kind of attention
            if isinstance(value, list) and len(value) == num_layers:
                setattr(model.config, setting, [value[layer] for layer in order])
    model.config.tie_word_embeddings = ties  # peft has put it to what it is of tensors that are not one, equal or not
    tie_equal_tensors(model)
    return model


def _has_tokenizer(name: str) -> bool:
    return (
        cached_file(
            name,
            "tokenizer_config.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        is not None
    )


def _prepared(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedModel:
    """Evaluation mode, fp32, all weights trainable, and no inherited sampling settings.

    What a hub model's generation config warps (top-k, penalties) would be sampled from but not scored with.
    """
    end_with_a_token(tokenizer, model.config)
    require_sound(tokenizer, name)
    eos = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=pad
    )
    model.name_or_path = name
    mark_origin(model, name)
    model.float()  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(True)
    train_every_embedding(model)
    fuse_activations(model)
    return model


def train_every_embedding(model: PreTrainedModel) -> None:
    """Lets the embedding of the padding token learn as well.

    Transformers keeps its gradient at zero. Many models pad with the token that ends a turn, which must learn; where
    padding stands for nothing else, the masks keep its gradient at zero anyway.
    """
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, nn.Embedding):
        embeddings.padding_idx = None
