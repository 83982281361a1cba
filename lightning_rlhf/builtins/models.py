"""The built-in model: small, random and offline."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lightning_rlhf.arguments import require_at_least
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.interfaces import ModelSource

__all__ = ["TinyModel"]

_BOS, _EOS, _PAD = "<s>", "</s>", "<pad>"


class TinyModel(ModelSource):
    """A small Llama with random weights and a tokenizer over bytes; needs no network.

    Args:
        hidden_size: width of the hidden states; a multiple of twice num_heads.
        num_layers: transformer blocks.
        num_heads: attention heads.
        max_positions: tokens that a row may have.
        seed: of the weights; the same seed gives the same weights anywhere.
    """

    offline = True
    reproducible = True

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        max_positions: int = 1024,
        seed: int = 0,
    ) -> None:
        require_at_least(1, of="the tiny model", num_layers=num_layers, num_heads=num_heads)
        require_at_least(1, of="the tiny model", max_positions=max_positions)
        if hidden_size < 1 or hidden_size % (2 * num_heads):
            raise ConfigError(
                f"hidden_size of the tiny model must be a multiple of twice num_heads ({2 * num_heads}), "
                f"got {hidden_size}."
            )
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.max_positions = max_positions
        self.seed = seed

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, in fp32 on the CPU, and its tokenizer."""
        tokenizer = _byte_tokenizer(self.max_positions)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=4 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=self.max_positions,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        # a generator of its own: loading a model must not shift what the run draws next
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            # by name, since a run in half precision changes the default
            model: PreTrainedModel = LlamaForCausalLM._from_config(  # type: ignore[no-untyped-call]
                config, dtype=torch.float32
            )
        model.eval()  # type: ignore[no-untyped-call]
        return model, tokenizer


def _byte_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """Every byte is a token; a BOS is added, as Llama's tokenizers do."""
    special = (_PAD, _BOS, _EOS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", pair=f"{_BOS} $A $B", special_tokens=[(_BOS, vocabulary[_BOS])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )
