from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.models import LoadedModel

VOCABULARY = 64
IDS = {"bos_token_id": 0, "eos_token_id": 0}
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
}


def _gpt2(attention: str) -> PreTrainedModel:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=48, **IDS)
    return GPT2LMHeadModel._from_config(config, attn_implementation=attention)


def _llama(attention: str) -> PreTrainedModel:
    config = LlamaConfig(intermediate_size=48, num_key_value_heads=1, **SIZES, **IDS)
    return LlamaForCausalLM._from_config(config, attn_implementation=attention)


def _neox(attention: str) -> PreTrainedModel:
    return GPTNeoXForCausalLM._from_config(
        GPTNeoXConfig(intermediate_size=48, **SIZES, **IDS), attn_implementation=attention
    )


def _opt(attention: str) -> PreTrainedModel:
    config = OPTConfig(ffn_dim=48, word_embed_proj_dim=16, pad_token_id=1, **SIZES, **IDS)
    return OPTForCausalLM._from_config(config, attn_implementation=attention)


def _gemma2(attention: str) -> PreTrainedModel:
    """Soft-capped logits, sliding windows, tied embeddings; transformers offers it eager attention only."""
    config = Gemma2Config(
        intermediate_size=48,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        final_logit_softcapping=0.5,
        pad_token_id=1,
        **SIZES,
        **IDS,
    )
    return Gemma2ForCausalLM._from_config(config, attn_implementation="eager")


def _qwen2(attention: str) -> PreTrainedModel:
    config = Qwen2Config(intermediate_size=48, num_key_value_heads=1, tie_word_embeddings=True, **SIZES, **IDS)
    return Qwen2ForCausalLM._from_config(config, attn_implementation=attention)


def _lfm2(attention: str) -> PreTrainedModel:
    """Short convolutions between layers of attention."""
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(
        intermediate_size=48,
        num_key_value_heads=1,
        layer_types=kinds,
        block_auto_adjust_ff_dim=False,
        pad_token_id=1,
        **SIZES,
        **IDS,
    )
    return Lfm2ForCausalLM._from_config(config, attn_implementation=attention)


def _gpt_oss(attention: str) -> PreTrainedModel:
    """Experts; its masks know nothing of position ids; transformers offers it eager attention only."""
    config = GptOssConfig(
        intermediate_size=48,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        num_local_experts=2,
        num_experts_per_tok=1,
        pad_token_id=1,
        **SIZES,
        **IDS,
    )
    return GptOssForCausalLM._from_config(config, attn_implementation="eager")


def _mixtral(attention: str) -> PreTrainedModel:
    """Experts, all in one tensor per layer, and routers that are no linear layers."""
    config = MixtralConfig(intermediate_size=48, num_key_value_heads=1, num_local_experts=4, **SIZES, **IDS)
    return MixtralForCausalLM._from_config(config, attn_implementation=attention)


def _phimoe(attention: str) -> PreTrainedModel:
    """Experts, and routers that are linear layers by class and return tuples."""
    config = PhimoeConfig(intermediate_size=48, num_key_value_heads=1, num_local_experts=4, **SIZES, **IDS)
    return PhimoeForCausalLM._from_config(config, attn_implementation=attention)


def _mamba(attention: str) -> PreTrainedModel:
    """States in place of attention, and layers whose weights are read without calling them."""
    sizes = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    return MambaForCausalLM._from_config(MambaConfig(state_size=4, **sizes, **IDS))


def _falcon(attention: str) -> PreTrainedModel:
    """ALiBi, made of a mask that is flat."""
    config = FalconConfig(alibi=True, new_decoder_architecture=False, multi_query=True, **SIZES, **IDS)
    return FalconForCausalLM._from_config(config, attn_implementation=attention)


def _bloom(attention: str) -> PreTrainedModel:
    """ALiBi without position ids."""
    return BloomForCausalLM._from_config(BloomConfig(n_layer=2, n_head=2, hidden_size=32, vocab_size=64, **IDS))


MAKERS = {
    "gpt2": _gpt2,
    "llama": _llama,
    "neox": _neox,
    "opt": _opt,
    "gemma2": _gemma2,
    "qwen2": _qwen2,
    "lfm2": _lfm2,
    "gpt_oss": _gpt_oss,
    "mixtral": _mixtral,
    "phimoe": _phimoe,
    "mamba": _mamba,
    "falcon": _falcon,
    "bloom": _bloom,
}


def _tiny(architecture: str, attention: str = "sdpa", seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MAKERS[architecture](attention)
        with torch.no_grad():  # at the usual 0.02 a tiny model is almost linear, and mistakes hide
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0.0, 0.2)
    return model.eval()


@pytest.fixture
def tiny() -> Callable[..., PreTrainedModel]:
    """`tiny(architecture, attention="sdpa", seed=0)`: a random model in evaluation mode."""
    return _tiny


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """A tokenizer over the words ` w1`, ` w2`, ... whose only special token ends a text and pads, as GPT-2's does."""

    def make(num_words: int = VOCABULARY, **special: str) -> PreTrainedTokenizerFast:
        vocabulary = {"<end>": 0, **{f"Ġw{index}": index for index in range(1, num_words)}}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġw1"))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, **{"eos_token": "<end>", "bos_token": "<end>", "pad_token": "<end>", **special}
        )

    return make


@pytest.fixture
def load_tiny(tiny, make_tokenizer) -> Callable[..., LoadedModel]:
    """`load_tiny(architecture, seed=0)`: as `load_base` returns it."""

    def load(architecture: str, seed: int = 0) -> LoadedModel:
        return LoadedModel(tiny(architecture, seed=seed), make_tokenizer(), f"someone/{architecture}", None)

    return load


@pytest.fixture
def make_tokens() -> Callable[..., TokenBatch]:
    """`make_tokens(rows, left=False, length=None, pad_id=0)`: rows of ids as a padded batch."""

    def make(rows: list[list[int]], *, left: bool = False, length: int | None = None, pad_id: int = 0) -> TokenBatch:
        length = length or max(map(len, rows))
        ids = torch.full((len(rows), length), pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            place = slice(length - len(row), None) if left else slice(0, len(row))
            ids[index, place] = torch.tensor(row)
            mask[index, place] = True
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return TokenBatch(ids, mask, positions, right_padded=not left)

    return make


@pytest.fixture
def rows() -> list[list[int]]:
    """Three rows; id 0 is EOS and padding, and stands inside a row as well."""
    return [[5, 9, 0, 7, 33, 2, 0], [12, 40, 41, 8, 0], [3, 17, 60, 61, 62, 63, 4, 5, 6]]
