"""Reward models of architectures that transformers has no sequence-classification class for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    Cohere2Config,
    Cohere2ForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MambaConfig,
    MambaForCausalLM,
)

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import (
    LoadedModel,
    LoRA,
    ScalarModel,
    add_adapter,
    build_actor_critic,
    load_base,
    load_scoring_base,
    require_savable_reward_model,
    save_reward_model,
)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 48,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
HYBRID = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_chunk_size": 4}
LLAMA4 = {"head_dim": 16, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 8}
KINDS = {
    "cohere2": (Cohere2ForCausalLM, Cohere2Config, {}),
    "falcon_h1": (FalconH1ForCausalLM, FalconH1Config, {"head_dim": 16, **HYBRID}),
    "granite": (GraniteForCausalLM, GraniteConfig, {}),
    "lfm2": (Lfm2ForCausalLM, Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
    "llama4": (Llama4ForCausalLM, Llama4TextConfig, LLAMA4),
    "mamba": (MambaForCausalLM, MambaConfig, {"state_size": 4}),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fast path"),
    pytest.mark.parametrize("architecture", sorted(KINDS)),
]


@pytest.fixture
def base(architecture, make_tokenizer):
    model, config, options = KINDS[architecture]
    torch.manual_seed(0)
    return LoadedModel(model(config(**SIZES | options)).eval(), make_tokenizer(), f"someone/{architecture}", None)


@pytest.fixture
def trained(base):
    """A reward model with an offset."""
    model = ScalarModel.from_language_model(base, seed=3)
    model.shift_scores(0.75)
    return model


def scored(model, tokens):
    with torch.no_grad():
        return model.scores(tokens, tokens.attention_mask.sum(-1) - 1)


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["whole", "adapter"])
def test_the_scores_survive_saving_and_loading(trained, adapter, base, make_tokens, rows, tmp_path):
    if adapter is not None:
        add_adapter(trained.backbone, adapter)
        for parameter in trained.backbone.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(1))
    require_savable_reward_model(trained)
    save_reward_model(trained, base.tokenizer, tmp_path / "model", None)
    loaded = ScalarModel.load(str(tmp_path / "model"))
    tokens = make_tokens(rows)
    torch.testing.assert_close(scored(loaded.model, tokens), scored(trained, tokens), atol=1e-5, rtol=0)
    assert float(scored(trained, tokens).std()) > 1e-4
    assert (loaded.adapter is None) == (adapter is None)


def test_transformers_reads_the_parts_that_the_documentation_puts_together(trained, base, tmp_path):
    save_reward_model(trained, base.tokenizer, tmp_path, None)
    ids = torch.tensor([[5, 9, 7, 33, 2]])
    model = AutoModel.from_pretrained(tmp_path).eval()
    head = load_file(tmp_path / "score.safetensors")["score.weight"]
    with torch.no_grad():
        score = (model(ids).last_hidden_state[0, -1] @ head[0]) - model.config.score_offset
        ours = trained.head(trained.backbone(ids).last_hidden_state[:, -1])
    torch.testing.assert_close(score, ours[0], atol=1e-5, rtol=0)


def test_it_goes_on_being_trained_and_is_no_language_model(trained, base, make_tokens, rows, tmp_path):
    save_reward_model(trained, base.tokenizer, tmp_path, None)
    again = load_scoring_base(str(tmp_path))
    assert again.is_trained
    tokens = make_tokens(rows)
    torch.testing.assert_close(scored(again.model, tokens), scored(trained, tokens), atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in again.model.parameters())
    with pytest.raises(ModelError, match="a reward model"):
        load_base(str(tmp_path))


@pytest.mark.parametrize("shape", [None, (2, 32), (32,)])
def test_a_head_that_is_none_is_refused(trained, base, shape, tmp_path):
    save_reward_model(trained, base.tokenizer, tmp_path, None)
    tensors = {"other": torch.zeros(1)} if shape is None else {"score.weight": torch.zeros(shape)}
    save_file(tensors, tmp_path / "score.safetensors")
    with pytest.raises(ModelError, match=r"score\.weight of the shape \(1, hidden size\)"):
        ScalarModel.load(str(tmp_path))
    (tmp_path / "score.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelError, match="readable safetensors"):
        ScalarModel.load(str(tmp_path))


def test_a_separate_value_model_starts_from_it_or_from_the_base(trained, base, make_tokens, rows, tmp_path):
    save_reward_model(trained, base.tokenizer, tmp_path, None)
    reward_model = ScalarModel.load(str(tmp_path))
    tokens = make_tokens(rows)
    keep = tokens.attention_mask
    with torch.no_grad():
        given = build_actor_critic(base, reward_model=reward_model).values(tokens, keep)
        torch.testing.assert_close(given, trained(tokens, keep), atol=1e-5, rtol=0)
        assert not build_actor_critic(base).values(tokens, keep).any()


def test_the_config_says_one_label_and_the_offset(trained, base, tmp_path):
    save_reward_model(trained, base.tokenizer, tmp_path, None)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["score_offset"] == pytest.approx(-0.75)
    assert config["architectures"] == [type(trained.backbone).__name__]
