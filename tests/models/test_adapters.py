import pytest
import torch

from lightning_rlhf.errors import ConfigError, ModelError
from lightning_rlhf.models import LanguageModel, LoRA, add_adapter, merged_state_dict, without_adapters
from lightning_rlhf.models.adapters import (
    activate_adapter,
    active_adapter,
    adapter_parameters,
    adapter_state_dict,
    base_fingerprint,
    load_adapter_state_dict,
    using_adapter,
)


def logits(model, tokens):
    with torch.no_grad():
        return LanguageModel(model)(tokens, tokens.attention_mask).logits


def disturb(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, 0.2, generator=generator)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "gemma2", "mixtral", "phimoe"])
class TestAdding:
    def test_a_new_adapter_changes_nothing_and_freezes_the_rest(self, architecture, tiny, make_tokens, rows):
        model, tokens = tiny(architecture), make_tokens(rows)
        before = logits(model, tokens)
        add_adapter(model, LoRA())
        assert torch.equal(logits(model, tokens), before)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)
        assert not any("lm_head" in name or "embed_out" in name for name in trained)

    def test_off_it_is_the_starting_model_exactly(self, architecture, tiny, make_tokens, rows):
        model, tokens = tiny(architecture), make_tokens(rows)
        before = logits(model, tokens)
        add_adapter(model, LoRA(), name="policy")
        add_adapter(model, LoRA(rank=2), name="value")
        disturb(model)
        assert not torch.allclose(logits(model, tokens), before, atol=1e-2)
        with without_adapters(model):
            assert active_adapter(model) is None
            assert torch.equal(logits(model, tokens), before)
        assert active_adapter(model) == "value"

    def test_merged_weights_say_the_same_and_the_model_is_left_alone(self, architecture, tiny, make_tokens, rows):
        model, plain, tokens = tiny(architecture), tiny(architecture), make_tokens(rows)
        add_adapter(model, LoRA())
        disturb(model)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        plain.load_state_dict(merged_state_dict(model))
        torch.testing.assert_close(logits(plain, tokens), logits(model, tokens), atol=1e-4, rtol=1e-4)
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_switching_freezes_no_adapter(tiny):
    model = tiny("llama")
    add_adapter(model, LoRA(), name="policy")
    add_adapter(model, LoRA(), name="value")
    for name in ("policy", "value", "policy"):
        activate_adapter(model, name)
        assert active_adapter(model) == name
        for each in ("policy", "value"):
            assert adapter_parameters(model, each)
            assert all(parameter.requires_grad for parameter in adapter_parameters(model, each))
    with using_adapter(model, "value"), without_adapters(model):
        pass
    assert active_adapter(model) == "policy"
    assert all(parameter.requires_grad for parameter in adapter_parameters(model, "value"))


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral"])
def test_two_adapters_have_the_same_layers(tiny, architecture):
    model = tiny(architecture)
    add_adapter(model, LoRA(), name="policy")
    add_adapter(model, LoRA(), name="value")
    policy, value = (adapter_state_dict(model, name) for name in ("policy", "value"))
    assert policy.keys() == value.keys()
    assert all(tensor.shape == value[key].shape for key, tensor in policy.items())


def test_an_adapter_moves_from_a_headless_backbone_to_a_language_model(tiny, make_tokens, rows):
    backbone, model = tiny("gpt2").base_model, tiny("gpt2")
    add_adapter(backbone, LoRA(rank=3))
    disturb(backbone)
    add_adapter(model, LoRA(rank=2), name="policy")
    add_adapter(model, backbone.peft_config["default"], name="value")
    load_adapter_state_dict(model, "value", adapter_state_dict(backbone, "default"))
    tokens = make_tokens(rows)
    hidden = LanguageModel(model)(tokens, None).hidden
    expected = backbone(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long(), position_ids=tokens.position_ids
    ).last_hidden_state
    torch.testing.assert_close(hidden[tokens.attention_mask], expected[tokens.attention_mask], atol=1e-6, rtol=0)
    with pytest.raises(ModelError, match="must fit the layers"):
        load_adapter_state_dict(model, "policy", adapter_state_dict(backbone, "default"))


def test_the_fingerprint_tells_bases_apart_and_sees_through_adapters(tiny):
    model = tiny("llama", seed=0)
    expected = base_fingerprint(model)
    assert base_fingerprint(tiny("llama", seed=0).base_model) == expected
    assert base_fingerprint(tiny("llama", seed=1)) != expected
    add_adapter(model, LoRA())
    assert base_fingerprint(model.to(torch.bfloat16)) == expected


def test_the_seed_decides_and_the_global_generator_is_left_alone(tiny):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    states = [merged_state(tiny, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def merged_state(tiny, seed):
    model = add_adapter(tiny("llama"), LoRA(), seed=seed)
    return torch.cat([parameter.detach().flatten() for parameter in adapter_parameters(model, "default")])


def test_a_layer_may_be_named_without_a_list(tiny):
    model = add_adapter(tiny("llama"), LoRA(target_modules="q_proj, v_proj"))
    found = {key.split(".")[-3] for key in adapter_state_dict(model, "default")}
    assert found == {"q_proj", "v_proj"}


def test_a_string_that_is_no_name_is_a_regular_expression(tiny):
    model = add_adapter(tiny("llama"), LoRA(target_modules=r".*\.0\..*q_proj"))
    assert len(adapter_state_dict(model, "default")) == 2
    with pytest.raises(ConfigError, match="regular expression that matches whole names"):
        add_adapter(tiny("llama"), LoRA(target_modules="(q|k)_proj"))


def test_all_linear_leaves_out_what_an_adapter_would_not_train(tiny):
    model = add_adapter(tiny("mamba"), LoRA())
    assert {key.split(".")[-3] for key in adapter_state_dict(model, "default")} == {"in_proj"}
    model = add_adapter(tiny("phimoe"), LoRA())
    assert not any("router" in key for key in adapter_state_dict(model, "default"))


def test_what_peft_refuses_is_one_message(tiny):
    with pytest.raises(ConfigError, match=r"layers of MambaForCausalLM that peft can train, got \['out_proj'\]"):
        add_adapter(tiny("mamba"), LoRA(target_modules=["out_proj"]))
    with pytest.raises(ConfigError, match="lora_dropout"):
        add_adapter(tiny("mixtral"), LoRA(dropout=0.1))


def test_unknown_layers_are_refused_with_those_that_exist(tiny):
    with pytest.raises(ConfigError, match=r"c_attn, c_fc, c_proj"):
        add_adapter(tiny("gpt2"), LoRA(target_modules=["q_proj"]))


@pytest.mark.parametrize(
    "arguments", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"target_modules": []}], ids=lambda value: str(value)
)
def test_settings_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError, match="of LoRA must"):
        LoRA(**arguments)
