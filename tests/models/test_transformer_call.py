import pytest
import torch
from torch.nn import functional
from torch.utils import checkpoint

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LanguageModel, ScalarModel, enable_gradient_checkpointing
from lightning_rlhf.models.transformer_call import call_transformer, require_packing


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


@pytest.fixture
def masks_seen(monkeypatch):
    """The masks that torch's attention is given."""
    seen = []
    attend = functional.scaled_dot_product_attention

    def spied(*args, attn_mask=None, **kwargs):
        seen.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spied)
    return seen


def read(model, tokens):
    """Logits of the real tokens and all gradients."""
    model.zero_grad()
    logits = call_transformer(model, tokens).logits[tokens.attention_mask]
    (logits * torch.linspace(-1, 2, logits.numel()).view(logits.shape)).sum().backward()
    return logits.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


class TestPaddingOnTheRight:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "gemma2", "qwen2"])
    def test_changes_nothing_without_a_mask(self, architecture, attention, tiny, make_tokens, rows):
        model, tokens = tiny(architecture, attention), make_tokens(rows, length=12)
        logits, gradients = read(model, tokens)
        expected, expected_gradients = read(model, tokens._replace(right_padded=False))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        for name, gradient in expected_gradients.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)

    @pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "qwen2"])
    def test_needs_no_mask(self, architecture, tiny, make_tokens, rows, masks_seen):
        call_transformer(tiny(architecture), make_tokens(rows))
        assert masks_seen == [None, None]

    def test_is_masked_where_attention_looks_ahead(self, tiny, make_tokens, rows, masks_seen):
        model = tiny("llama")
        model.model.layers[1].self_attn.is_causal = False
        call_transformer(model, make_tokens(rows))
        assert len(masks_seen) == 2
        assert all(mask is not None for mask in masks_seen)

    def test_is_masked_where_the_config_makes_attention_look_ahead(self, tiny, make_tokens, rows):
        model, tokens = tiny("llama"), make_tokens(rows)
        model.config.is_causal = False
        hidden = call_transformer(model, tokens).logits
        for index, row in enumerate(rows):
            alone = call_transformer(model, make_tokens([row])).logits[0]
            torch.testing.assert_close(hidden[index, : len(row)], alone, atol=1e-5, rtol=1e-5)

    def test_is_masked_in_a_model_that_does_not_say_how_it_attends(self, tiny, make_tokens, rows, masks_seen):
        model = tiny("llama")
        for layer in model.model.layers:
            del layer.self_attn.is_causal
        call_transformer(model, make_tokens(rows))
        assert len(masks_seen) == 2
        assert all(mask is not None for mask in masks_seen)

    def test_on_the_left_is_masked(self, tiny, make_tokens, rows, masks_seen):
        call_transformer(tiny("llama"), make_tokens(rows, left=True))
        assert len(masks_seen) == 2
        assert all(mask is not None for mask in masks_seen)


class TestPacking:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "gemma2", "qwen2"])
    def test_models_that_keep_documents_apart_may_pack(self, architecture, attention, tiny, recwarn):
        model = tiny(architecture, attention).train()
        require_packing(model)
        assert all(module.training for module in model.modules())
        assert not recwarn

    @pytest.mark.parametrize("architecture", ["lfm2", "gpt_oss"])
    def test_models_in_which_a_document_changes_the_next_one_are_refused(self, architecture, tiny):
        with pytest.raises(ModelError, match=r"in which a document changes the next one\. Set packing to false\."):
            require_packing(tiny(architecture))

    @pytest.mark.parametrize(("architecture", "reason"), [("falcon", "which fails on them"), ("bloom", "which cannot")])
    def test_models_that_cannot_read_a_packed_row_are_refused(self, architecture, reason, tiny):
        with pytest.raises(ModelError, match=rf"{reason}.* Set packing to false\."):
            require_packing(tiny(architecture))
