"""A transformer with one scalar per token: reward model and value model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from lightning_rlhf.batches import SharedPrefixBatch, TokenBatch
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.activations import fuse_activations
from lightning_rlhf.models.adapters import headless, output_layer
from lightning_rlhf.models.dropout import disable_dropout
from lightning_rlhf.models.loading import LoadedModel, reading, resolve_reward_model, train_every_embedding
from lightning_rlhf.models.model_files import read_adapter_config, read_config, require_whole_model
from lightning_rlhf.models.recorded_template import RecordedTemplate, read_metadata, read_recorded_template
from lightning_rlhf.models.reward_files import (
    classifier_shell,
    read_backbone,
    require_one_label,
    require_readable,
)
from lightning_rlhf.models.row_chunks import in_row_order, row_chunks
from lightning_rlhf.models.shared_prefix import call_behind, prefix_cache
from lightning_rlhf.models.tokenizers import end_with_a_token, require_sound
from lightning_rlhf.models.transformer_call import call_transformer

if TYPE_CHECKING:  # slow to import, and needed with adapters only
    from peft import LoraConfig

__all__ = ["AdapterFiles", "LoadedScalarModel", "ScalarHead", "ScalarModel"]

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
            ModelError: the architecture has no such transformer, or one that could not be loaded again.
        """
        backbone, output = headless(loaded.model), output_layer(loaded.model)
        if backbone is None or output is None or output_layer(backbone) is not None:
            raise ModelError(
                "a reward or value model must be of an architecture with a transformer apart from its output layer, "
                f"got {loaded.model.config.model_type!r}. Start it from another base."
            )
        if classifier_shell(backbone) is None:
            require_readable(backbone)
        width = int(cast(nn.Parameter, output.weight).shape[1])
        return cls(backbone, ScalarHead(width, zero=zero_head, seed=seed))

    @staticmethod
    def load(name: str, *, trust_remote_code: bool = False) -> LoadedScalarModel:
        """Loads a reward model: a directory or hub id that `save_reward_model` wrote, or one in transformers'
        sequence-classification format with one label.

        Its head's bias is minus the `score_offset` of its config, if there is one: score = raw score - score_offset.

        Raises:
            ModelError: the files hold no such model, or no head.
        """
        name = resolve_reward_model(name)
        with reading(name):
            require_whole_model(name)
            config = read_config(name, trust_remote_code=trust_remote_code)
            require_one_label(name, config)
            backbone, weight, bias = read_backbone(name, config, trust_remote_code=trust_remote_code)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            require_sound(tokenizer, name)
        head = ScalarHead(weight.shape[1], zero=True)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.fill_(bias - float(getattr(config, "score_offset", 0.0)))
        train_every_embedding(backbone)
        fuse_activations(backbone)
        model = ScalarModel(cast(Any, backbone).eval(), head)
        end_with_a_token(tokenizer, backbone.config)
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
