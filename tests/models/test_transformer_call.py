import pytest
import torch
from torch.utils import checkpoint

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LanguageModel, ScalarModel, enable_gradient_checkpointing


@pytest.fixture
def num_recorded(monkeypatch):
    """Counts blocks that run checkpointed."""
    calls = []
    contexts = checkpoint._checkpoint_without_reentrant_generator

    def counted(*args, **kwargs):
        calls.append(1)
        return contexts(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "_checkpoint_without_reentrant_generator", counted)
    return calls


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt"])
def test_blocks_are_checkpointed_while_gradients_are_recorded_only(architecture, tiny, make_tokens, rows, num_recorded):
    model = LanguageModel(tiny(architecture))  # in evaluation mode, as loaded
    enable_gradient_checkpointing(model)
    tokens = make_tokens(rows)
    with torch.no_grad():
        model(tokens, tokens.attention_mask)
    assert not num_recorded
    model(tokens, tokens.attention_mask).logits.sum().backward()
    assert len(num_recorded) == 2


def test_a_scalar_model_checkpoints_too(load_tiny, make_tokens, rows, num_recorded):
    model = ScalarModel.from_language_model(load_tiny("llama"))
    enable_gradient_checkpointing(model)
    model(make_tokens(rows)).sum().backward()
    assert len(num_recorded) == 2


def test_the_model_keeps_its_cache_and_mode_outside(tiny, make_tokens, rows, recwarn):
    model = tiny("llama").train()
    enable_gradient_checkpointing(model)
    tokens = make_tokens(rows)
    LanguageModel(model)(tokens, tokens.attention_mask)
    assert model(input_ids=tokens.input_ids, use_cache=True).past_key_values.get_seq_length() == 9
    assert all(module.training for module in model.modules())
    assert not recwarn


def test_a_model_that_cannot_is_refused(tiny):
    model = tiny("llama")
    model.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        enable_gradient_checkpointing(model)
