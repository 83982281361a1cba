import copy

import pytest
import torch
from transformers.activations import ACT2FN

from lightning_rlhf.models import load_base
from lightning_rlhf.models.activations import fuse_activations


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_the_fused_activation_has_the_values_and_gradients_of_the_one_written_out(name):
    x = torch.linspace(-6, 6, 1001, requires_grad=True)
    layer = torch.nn.Sequential(ACT2FN[name])
    expected = layer(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    fuse_activations(layer)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(layer(x).sum(), x)[0], gradient, atol=2e-6, rtol=1e-6)
    assert type(layer[0]) is not type(ACT2FN[name])


def test_a_model_says_the_same_and_keeps_its_config(tiny, make_tokens, rows):
    model = tiny("gpt2")
    tokens, config = make_tokens(rows), copy.deepcopy(model.config)
    inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask.long()}
    expected = model(**inputs).logits
    fuse_activations(model)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.config.to_dict() == config.to_dict()


def test_other_activations_stay(tiny):
    model = tiny("llama")
    before = [type(module) for module in model.modules()]
    fuse_activations(model)
    assert [type(module) for module in model.modules()] == before


def test_a_loaded_model_has_them_fused(tiny, make_tokenizer, tmp_path):
    tiny("gpt2").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    names = {type(module).__name__ for module in load_base(str(tmp_path)).model.modules()}
    assert "GELUTanh" in names
    assert "NewGELUActivation" not in names
