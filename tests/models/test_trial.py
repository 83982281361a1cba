"""The step that is tried before a run."""

import logging

import pytest
import torch

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoRA, add_adapter, require_trainable_adapters
from lightning_rlhf.models.adapters import active_adapter


def test_the_layer_that_cannot_be_trained_is_named(tiny):
    model = add_adapter(tiny("phimoe"), LoRA(target_modules=["q_proj", "router"]))
    with pytest.raises(ConfigError, match=r"got q_proj, router, with which a step fails .*Leave out router\."):
        require_trainable_adapters(model)


def test_layers_that_no_gradient_reaches_are_named(tiny, caplog):
    with caplog.at_level(logging.WARNING):
        require_trainable_adapters(add_adapter(tiny("mamba"), LoRA(target_modules=["in_proj", "dt_proj"])))
    assert "LoRA on dt_proj of MambaForCausalLM learns nothing" in caplog.text
    with pytest.raises(ConfigError, match="got dt_proj: no gradient reaches them"):
        require_trainable_adapters(add_adapter(tiny("mamba"), LoRA(target_modules=["dt_proj"])))


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_it_leaves_no_trace(tiny, architecture):
    model = tiny(architecture)
    for name in ("policy", "value"):
        add_adapter(model, LoRA(), name=name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    require_trainable_adapters(torch.nn.ModuleList([model]))
    assert torch.equal(torch.get_rng_state(), state)
    assert active_adapter(model) == "value"
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
