import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from lightning_rlhf.models import disable_dropout


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "gemma2"])
def test_two_passes_in_training_mode_agree(architecture, tiny):
    model = tiny(architecture)
    for module in model.modules():  # give every architecture a dropout that would show
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.5)
    disable_dropout(model)
    model.train()
    ids = torch.arange(12)[None]
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_dropout_is_seen_without_it(tiny):
    model = tiny("gpt2").train()
    ids = torch.arange(12)[None]
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_router_noise_goes_as_well():
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        router_jitter_noise=0.5,
    )
    model = MixtralForCausalLM(config).train()
    disable_dropout(model)
    ids = torch.arange(12)[None]
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
