"""What is written, or merged at load, says what was trained: for tensors under two names, experts, repeated layers."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LanguageModel, LoRA, ScalarModel, add_adapter, load_base, merged_state_dict
from lightning_rlhf.models.adapters import activate_adapter
from lightning_rlhf.models.merging import whole_model
from lightning_rlhf.models.saving import require_savable_language_model, save_language_model, save_reward_model


@pytest.fixture
def logits(make_tokens, rows):
    tokens = make_tokens(rows)

    def of(model):
        with torch.no_grad():
            return LanguageModel(model)(tokens, tokens.attention_mask).logits

    return of


def disturb(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.empty_like(parameter).normal_(0.0, 0.2, generator=generator)


TIED = {"qwen2": ("embed_tokens", "lm_head"), "gpt2": ("wte", "lm_head"), "opt": ("embed_tokens", "lm_head")}


@pytest.mark.parametrize("architecture", list(TIED))
@pytest.mark.parametrize("layers", [[0], [1], [0, 1]], ids=["embedding", "head", "both"])
@pytest.mark.parametrize("merge", [True, False], ids=["merged", "alone"])
def test_an_adapter_on_tied_embeddings_is_written_as_it_was_trained(
    architecture, layers, merge, load_tiny, logits, tmp_path
):
    loaded = load_tiny(architecture)
    save_language_model(loaded.model, loaded.tokenizer, tmp_path / "base", None)
    model = load_base(str(tmp_path / "base")).model
    add_adapter(model, LoRA(rank=2, target_modules=[TIED[architecture][layer] for layer in layers]))
    disturb(model)
    assert not torch.allclose(logits(model), logits(loaded.model), atol=0.1)
    require_savable_language_model(model)
    save_language_model(model, loaded.tokenizer, tmp_path / "model", None, merge_adapters=merge)
    again = load_base(str(tmp_path / "model")).model
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-4)
    assert not again.config.tie_word_embeddings
    if merge:
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        torch.testing.assert_close(logits(theirs), logits(model), atol=1e-4, rtol=1e-4)


def test_embeddings_that_no_adapter_parts_stay_one_tensor(load_tiny, tmp_path):
    loaded = load_tiny("qwen2")
    model = add_adapter(loaded.model, LoRA(target_modules=["q_proj"]))
    disturb(model)
    save_language_model(model, loaded.tokenizer, tmp_path / "model", None)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"]


def test_weights_that_cannot_be_parted_are_refused(tiny):
    class AlwaysTied(type(tiny("qwen2"))):
        def get_expanded_tied_weights_keys(self, all_submodels=False):
            return dict(self._tied_weights_keys)

    model = add_adapter(tiny("qwen2"), LoRA(target_modules=["lm_head"]))
    with pytest.raises(ModelError, match=r"must keep lm_head\.weight the same.* Leave that layer out"):
        whole_model(AlwaysTied, model.config, merged_state_dict(model, shapes_only=True))


SETTINGS = {
    "embedding": LoraConfig(target_modules=["q_proj", "embed_tokens"]),
    "kept tied": LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "whole embedding": LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "whole head": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "tokens": LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5, 9]),
    "tokens of both": LoraConfig(
        trainable_token_indices={"embed_tokens": [5], "lm_head": [9]}, target_modules=["q_proj"]
    ),
    "repeated layers": LoraConfig(target_modules=["q_proj", "embed_tokens"], layer_replication=[[0, 2], [1, 2]]),
}


@pytest.mark.filterwarnings("ignore")  # peft's, of training that is not ours
@pytest.mark.parametrize("name", list(SETTINGS))
def test_an_adapter_that_peft_trained_is_the_same_merged_at_load_and_saved_again(name, load_tiny, logits, tmp_path):
    loaded = load_tiny("qwen2")
    save_language_model(loaded.model, loaded.tokenizer, tmp_path / "base", None)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), SETTINGS[name]).eval()
    adapted.config.layer_types = adapted.config.layer_types[:1] * adapted.config.num_hidden_layers  # peft forgets them
    disturb(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = load_base(str(tmp_path / "adapter")).model
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-4, rtol=1e-4)
    assert merged.config.tie_word_embeddings == (name in ("kept tied", "tokens"))
    require_savable_language_model(merged)
    save_language_model(merged, loaded.tokenizer, tmp_path / "model", None)
    again = load_base(str(tmp_path / "model")).model
    torch.testing.assert_close(logits(again), logits(merged), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["mixtral", "phimoe", "gpt_oss", "mamba"])
@pytest.mark.parametrize("merge", [True, False], ids=["merged", "alone"])
def test_an_adapter_beside_another_is_written_as_it_was_trained(architecture, merge, load_tiny, logits, tmp_path):
    loaded = load_tiny(architecture)
    save_language_model(loaded.model, loaded.tokenizer, tmp_path / "base", None)
    model = load_base(str(tmp_path / "base")).model
    for name in ("policy", "value"):
        add_adapter(model, LoRA(rank=2), name=name)
    disturb(model)
    activate_adapter(model, "policy")
    save_language_model(model, loaded.tokenizer, tmp_path / "model", None, merge_adapters=merge)
    again = load_base(str(tmp_path / "model")).model
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(again), logits(loaded.model), atol=0.1)


def test_a_reward_model_with_an_adapter_on_its_embedding_scores_the_same_again(load_tiny, make_tokens, rows, tmp_path):
    loaded = load_tiny("qwen2")
    model = ScalarModel.from_language_model(loaded)
    add_adapter(model.backbone, LoRA(target_modules=["embed_tokens", "down_proj"]))
    disturb(model)
    save_reward_model(model, loaded.tokenizer, tmp_path / "model", None)
    again = ScalarModel.load(str(tmp_path / "model")).model
    tokens = make_tokens(rows)
    last = tokens.attention_mask.sum(-1) - 1
    with torch.no_grad():
        torch.testing.assert_close(again.scores(tokens, last), model.scores(tokens, last), atol=1e-4, rtol=1e-4)
