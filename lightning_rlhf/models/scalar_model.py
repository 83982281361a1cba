"""A transformer with one scalar per token: reward model and value model."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.utils.hub import cached_file

from lightning_rlhf.batches import SharedPrefixBatch, TokenBatch
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.activations import fuse_activations
from lightning_rlhf.models.dropout import disable_dropout
from lightning_rlhf.models.loading import LoadedModel, reading, resolve_reward_model, train_every_embedding
from lightning_rlhf.models.model_files import read_adapter_config, read_config, require_whole_model
from lightning_rlhf.models.recorded_template import RecordedTemplate, read_metadata, read_recorded_template
from lightning_rlhf.models.row_chunks import in_row_order, row_chunks
from lightning_rlhf.models.shared_prefix import call_behind, prefix_cache
from lightning_rlhf.models.tokenizers import end_with_a_token, require_sound
from lightning_rlhf.models.transformer_call import call_transformer

if TYPE_CHECKING:  # slow to import, and needed with adapters only
    from peft import LoraConfig

__all__ = ["AdapterFiles", "LoadedScalarModel", "ScalarHead", "ScalarModel", "sequence_classification_shell"]

ADAPTER_FOLDER = "adapter"


class AdapterFiles(NamedTuple):
    """The adapter that a reward model was trained as, unmerged."""

    config: LoraConfig
    tensors: dict[str, Tensor]
    base_fingerprint: str
    """Of the weights that it was trained on."""


class LoadedScalarModel(NamedTuple):
    """A reward model with what belongs to it."""

    model: ScalarModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    template: RecordedTemplate | None
    adapter: AdapterFiles | None = None


class ScalarHead(nn.Linear):
    """One number per hidden state, computed in fp32 under every precision.

    Args:
        hidden_size: width of the hidden states.
        zero: start with zero weights; else with a normal of variance 1 / (hidden_size + 1) (Stiennon et al. 2020). The
            bias is zero.
        seed: of the normal; the global generator is left alone.
    """

    def __init__(self, hidden_size: int, *, zero: bool = False, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            super().__init__(hidden_size, 1)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            self.weight.normal_(0.0, 0.0 if zero else 1 / math.sqrt(hidden_size + 1), generator=generator)
            self.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., H)` to `(...)`."""
        with torch.autocast(hidden.device.type, enabled=False):
            scalars = F.linear(hidden.float(), self.weight.float(), self.bias.float())
        return scalars[..., 0].clone()  # no view: FSDP2 hooks into what a root returns, and warns of one


class ScalarModel(nn.Module):
    """A headless transformer and a linear head.

    Args:
        backbone: the transformer without an output layer, with or without adapters.
        head: what reads its last hidden states.
    """

    def __init__(self, backbone: PreTrainedModel, head: ScalarHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        disable_dropout(backbone)

    @classmethod
    def from_language_model(cls, loaded: LoadedModel, seed: int = 0, *, zero_head: bool = False) -> ScalarModel:
        """A scalar model on the transformer of a language model, which it takes over, with a new head.

        Args:
            loaded: the language model; its transformer is not copied.
            seed: of the head.
            zero_head: start with a head that says 0 everywhere, as value models do.

        Raises:
            ModelError: transformers has no sequence-classification class for the architecture.
        """
        shell = sequence_classification_shell(loaded.model.config)
        backbone = cast(PreTrainedModel, loaded.model.base_model)
        if type(shell.base_model) is not type(backbone):
            raise ModelError(_unsupported(loaded.model.config))
        return cls(backbone, ScalarHead(cast(nn.Linear, shell.score).in_features, zero=zero_head, seed=seed))

    @staticmethod
    def load(name: str, *, trust_remote_code: bool = False) -> LoadedScalarModel:
        """Loads a reward model: a directory or hub id in transformers' sequence-classification format with one label.

        Its head's bias is minus the `score_offset` of its config, if there is one: score = raw score - score_offset.

        Raises:
            ModelError: the files hold no such model, or no head.
        """
        name = resolve_reward_model(name)
        with reading(name):
            require_whole_model(name)
            config = read_config(name, trust_remote_code=trust_remote_code)
            _require_one_label(name, config)
            shell, info = AutoModelForSequenceClassification.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                weights_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            require_sound(tokenizer, name)
        missing = sorted(info["missing_keys"])
        if missing or not isinstance(getattr(shell, "score", None), nn.Linear):
            raise ModelError(
                f"reward model {name!r} must hold its head, got no weights for {', '.join(missing) or 'score'}."
            )
        head = ScalarHead(shell.score.in_features, zero=True)
        with torch.no_grad():
            head.weight.copy_(shell.score.weight)
            head.bias.fill_(-float(getattr(config, "score_offset", 0.0)))
            if shell.score.bias is not None:
                head.bias.add_(shell.score.bias)
        train_every_embedding(shell)
        fuse_activations(shell)
        model = ScalarModel(shell.base_model.eval(), head)
        end_with_a_token(tokenizer, model.backbone.config)
        return LoadedScalarModel(model, tokenizer, name, read_recorded_template(name), _read_adapter(name))

    @property
    def score_offset(self) -> float:
        """What is to be subtracted from the raw scores of the saved model."""
        return -float(self.head.bias.detach())

    def forward(self, tokens: TokenBatch, keep: Tensor | None = None) -> Tensor:
        """Scalars in fp32.

        Args:
            tokens: `(B, T)` rows.
            keep: bool `(B, T)`, True at the N positions to read; None: everywhere.

        Returns:
            `(N,)` in row-major order, or `(B, T)`.
        """
        if keep is None:
            hidden = self._hidden(tokens, None)
        else:
            chunks = row_chunks(self.backbone, tokens)
            kept = [chunk.of(keep) for chunk in chunks]
            states = [self._hidden(chunk.tokens, here)[here] for chunk, here in zip(chunks, kept, strict=True)]
            hidden = in_row_order(states, chunks, keep)
        scalars: Tensor = self.head(hidden)
        return scalars

    def _hidden(self, tokens: TokenBatch | SharedPrefixBatch, keep: Tensor | None) -> Tensor:
        """The last hidden states, right at the kept positions; of rows behind prefixes what follows: `(B, T, H)`."""
        if isinstance(tokens, SharedPrefixBatch):
            output = call_behind(self.backbone, tokens, prefix_cache(self.backbone, tokens), keep)
        else:
            output = call_transformer(self.backbone, tokens, keep)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def scores(self, tokens: TokenBatch, last_positions: Tensor) -> Tensor:
        """The scalar at one position of each row: `(rows,)`.

        Args:
            tokens: `(rows, T)`.
            last_positions: int64 `(rows,)`, index of the last real token of each row.
        """
        keep = torch.zeros_like(tokens.attention_mask).scatter_(1, last_positions[:, None], True)
        scores: Tensor = self(tokens, keep)  # through the module's call: strategies hook into it
        return scores

    @torch.no_grad()
    def shift_scores(self, shift: Tensor | float) -> None:
        """Adds a constant to all scores, through the head's bias."""
        self.head.bias.add_(float(shift))


def sequence_classification_shell(config: PreTrainedConfig) -> PreTrainedModel:
    """The sequence-classification model with one label of an architecture, without memory for its weights.

    Raises:
        ModelError: transformers has none, or one with another kind of head.
    """
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(_unsupported(config))
    copied = copy.deepcopy(config)
    copied.num_labels = 1
    with torch.device("meta"):
        shell = cast(type[PreTrainedModel], MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)])(copied)
    if not isinstance(getattr(shell, "score", None), nn.Linear):
        raise ModelError(_unsupported(config))
    return shell


def _unsupported(config: PreTrainedConfig) -> str:
    return (
        "a reward or value model must be of an architecture that transformers can classify sequences with (a `score` "
        f"layer on the same backbone), got {config.model_type!r}. Start it from another base."
    )


def _require_one_label(name: str, config: PreTrainedConfig) -> None:
    architectures = getattr(config, "architectures", None) or ["unknown"]
    if not architectures[0].endswith("ForSequenceClassification"):
        raise ModelError(
            f"a reward model must hold a head, got {name!r}, which is a {architectures[0]} without one. "
            "Train it with RewardModule, and name its `model` directory."
        )
    if config.num_labels != 1:
        raise ModelError(f"a reward model must have one label, got {name!r} with {config.num_labels}.")


def _read_adapter(name: str) -> AdapterFiles | None:
    fingerprint: Any = read_metadata(name).get("adapter_base_fingerprint")
    if fingerprint is None:
        return None
    with reading(name):
        files = [
            cached_file(name, file, subfolder=ADAPTER_FOLDER)
            for file in ("adapter_config.json", "adapter_model.safetensors")
        ]
        settings = read_adapter_config(str(Path(cast(str, files[0])).parent), cast(str, files[0]))
        from peft import LoraConfig

        config = LoraConfig.from_peft_type(**settings)  # type: ignore[no-untyped-call]
        return AdapterFiles(config, load_file(cast(str, files[1])), str(fingerprint))
