import copy
import logging

import pytest
import torch

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import (
    AdapterActorCritic,
    LanguageModel,
    LoRA,
    ScalarModel,
    SeparateActorCritic,
    SharedActorCritic,
    add_adapter,
    build_actor_critic,
    enable_gradient_checkpointing,
    save_reward_model,
)

VARIANTS = {
    "separate": {"value_model": "separate"},
    "shared": {"value_model": "shared"},
    "adapters": {"value_model": "separate", "adapter": LoRA(rank=4)},
    "shared adapter": {"value_model": "shared", "adapter": LoRA(rank=4)},
}
CLASSES = {
    "separate": SeparateActorCritic,
    "shared": SharedActorCritic,
    "adapters": AdapterActorCritic,
    "shared adapter": SharedActorCritic,
}


def disturb(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def reward_model(load_tiny, make_tokenizer, tmp_path):
    """`reward_model(architecture, adapter=None, seed=0)`: trained a little, saved and loaded."""

    def make(architecture="llama", adapter=None, seed=0, tokenizer=None):
        model = ScalarModel.from_language_model(load_tiny(architecture, seed=seed), seed=5)
        if adapter is not None:
            add_adapter(model.backbone, adapter)
        disturb([parameter for parameter in model.parameters() if parameter.requires_grad])
        save_reward_model(model, tokenizer or make_tokenizer(), tmp_path / "reward", None)
        return ScalarModel.load(str(tmp_path / "reward"))

    return make


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("variant", VARIANTS)
class TestEveryArrangement:
    def test_at_the_start_policy_and_reference_agree_exactly_and_values_are_zero(
        self, variant, architecture, load_tiny, make_tokens, rows
    ):
        models = build_actor_critic(load_tiny(architecture), **VARIANTS[variant])
        assert type(models) is CLASSES[variant]
        tokens = make_tokens(rows, left=True)
        logits, values = models.logits_and_values(tokens, tokens.attention_mask)
        assert torch.equal(models.reference_logits(tokens, tokens.attention_mask), logits)
        assert values.shape == (21,)
        assert values.dtype == torch.float32
        assert values.abs().max() == 0

    def test_the_joint_pass_says_what_the_single_ones_say(self, variant, architecture, load_tiny, make_tokens, rows):
        models = build_actor_critic(load_tiny(architecture), **VARIANTS[variant])
        disturb([*models.policy_parameters(), *models.value_parameters()])
        tokens = make_tokens(rows)
        keep = tokens.attention_mask & (torch.arange(9) > 1)
        logits, values = models.logits_and_values(tokens, keep)
        torch.testing.assert_close(models.logits(tokens, keep), logits, atol=1e-6, rtol=0)
        torch.testing.assert_close(models.values(tokens, keep), values, atol=1e-5, rtol=0)

    def test_the_groups_are_disjoint_and_cover_all_that_is_trained(self, variant, architecture, load_tiny):
        models = build_actor_critic(load_tiny(architecture), **VARIANTS[variant])
        policy, value = (
            {id(parameter) for parameter in group} for group in (models.policy_parameters(), models.value_parameters())
        )
        trained = {id(parameter) for parameter in models.parameters() if parameter.requires_grad}
        assert policy
        assert value
        assert not policy & value
        assert policy | value == trained

    def test_every_trained_matrix_gets_a_gradient_and_the_reference_stays(
        self, variant, architecture, load_tiny, make_tokens, rows
    ):
        models = build_actor_critic(load_tiny(architecture), **VARIANTS[variant])
        tokens = make_tokens(rows)
        before = models.reference_logits(tokens, tokens.attention_mask)
        disturb([*models.policy_parameters(), *models.value_parameters()])
        logits, values = models.logits_and_values(tokens, tokens.attention_mask)
        (logits.log_softmax(-1)[:, 0].sum() + values.square().sum()).backward()
        for parameter in [*models.policy_parameters(), *models.value_parameters()]:
            # the output layer of a value model's former language model is not among them
            assert parameter.grad is not None
        assert all(parameter.grad is None for parameter in models.parameters() if not parameter.requires_grad)
        assert torch.equal(models.reference_logits(tokens, tokens.attention_mask), before)

    def test_gradients_are_the_same_with_gradient_checkpointing(
        self, variant, architecture, load_tiny, make_tokens, rows
    ):
        models = build_actor_critic(load_tiny(architecture), **VARIANTS[variant])
        disturb([*models.policy_parameters(), *models.value_parameters()])
        tokens = make_tokens(rows)

        def gradients():
            models.zero_grad()
            logits, values = models.logits_and_values(tokens, tokens.attention_mask)
            (logits.log_softmax(-1)[:, 0].sum() + values.square().sum()).backward()
            return [parameter.grad.clone() for parameter in models.policy_parameters() + models.value_parameters()]

        expected = gradients()
        enable_gradient_checkpointing(models)
        for one, other in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)

    def test_generation_has_a_cache_and_samples_from_the_policy(
        self, variant, architecture, load_tiny, make_tokens, rows
    ):
        models = build_actor_critic(load_tiny(architecture), **VARIANTS[variant])
        disturb(models.policy_parameters())
        enable_gradient_checkpointing(models)
        models.train()
        tokens = make_tokens([row[:5] for row in rows])
        with torch.no_grad():
            first = models.generation_model(input_ids=tokens.input_ids[:, :4], use_cache=True)
            second = models.generation_model(
                input_ids=tokens.input_ids[:, 4:], past_key_values=first.past_key_values, use_cache=True
            )
            last = torch.zeros_like(tokens.attention_mask)
            last[:, -1] = True
            torch.testing.assert_close(second.logits[:, 0], models.logits(tokens, last), atol=1e-5, rtol=0)


def test_a_shared_trunk_and_its_head_take_one_pass(load_tiny, make_tokens, rows):
    models = build_actor_critic(load_tiny("llama"), value_model="shared")
    passes = []
    models.policy.model.register_forward_pre_hook(lambda *_: passes.append(1))
    tokens = make_tokens(rows)
    models.logits_and_values(tokens, tokens.attention_mask)
    assert len(passes) == 1


class TestStart:
    def test_a_separate_value_model_is_a_trained_copy_of_the_reward_model(
        self, load_tiny, reward_model, make_tokens, rows
    ):
        start = reward_model("neox")
        start.model.requires_grad_(False)
        models = build_actor_critic(load_tiny("llama"), reward_model=start)
        tokens = make_tokens(rows)
        expected = start.model(tokens, tokens.attention_mask)
        assert torch.equal(models.values(tokens, tokens.attention_mask), expected)
        disturb(models.value_parameters())
        assert torch.equal(start.model(tokens, tokens.attention_mask), expected)
        assert not torch.equal(models.values(tokens, tokens.attention_mask), expected)

    def test_another_tokenizer_means_a_zero_head_on_the_base(
        self, load_tiny, reward_model, make_tokenizer, make_tokens, rows, caplog
    ):
        start = reward_model("llama", tokenizer=make_tokenizer(60))
        with caplog.at_level(logging.WARNING):
            models = build_actor_critic(load_tiny("llama"), reward_model=start)
        assert "another tokenizer" in caplog.text
        tokens = make_tokens(rows)
        assert models.values(tokens, tokens.attention_mask).abs().max() == 0

    @pytest.mark.parametrize("architecture", ["gpt2", "llama"])
    def test_the_value_adapter_starts_from_a_reward_model_on_the_same_base(
        self, architecture, load_tiny, reward_model, make_tokens, rows, caplog
    ):
        start = reward_model(architecture, adapter=LoRA(rank=3))
        with caplog.at_level(logging.WARNING):
            models = build_actor_critic(load_tiny(architecture), reward_model=start, adapter=LoRA(rank=4))
        assert not caplog.records
        tokens = make_tokens(rows)
        torch.testing.assert_close(
            models.values(tokens, tokens.attention_mask),
            start.model(tokens, tokens.attention_mask),
            atol=1e-4,
            rtol=1e-4,
        )
        logits = models.logits(tokens, tokens.attention_mask)
        assert torch.equal(logits, models.reference_logits(tokens, tokens.attention_mask))

    @pytest.mark.parametrize(
        "trained", [{"adapter": LoRA(rank=3), "seed": 1}, {"adapter": None}], ids=["other", "whole"]
    )
    def test_it_starts_from_zero_on_another_base_and_says_so(
        self, trained, load_tiny, reward_model, make_tokens, rows, caplog
    ):
        with caplog.at_level(logging.WARNING):
            models = build_actor_critic(load_tiny("llama"), reward_model=reward_model(**trained), adapter=LoRA())
        assert "starts from zero" in caplog.text
        tokens = make_tokens(rows)
        assert models.values(tokens, tokens.attention_mask).abs().max() == 0

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_another_reference_can_be_named(self, variant, load_tiny, make_tokens, rows):
        other = load_tiny("llama", seed=7)
        expected = copy.deepcopy(other.model)
        models = build_actor_critic(load_tiny("llama"), reference=other, **VARIANTS[variant])
        tokens = make_tokens(rows)
        with torch.no_grad():
            logits = expected(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long()).logits
        torch.testing.assert_close(
            models.reference_logits(tokens, tokens.attention_mask), logits[tokens.attention_mask], atol=1e-5, rtol=0
        )
        assert not any(parameter.requires_grad for parameter in models.reference.parameters())

    def test_a_reference_with_another_tokenizer_is_refused(self, load_tiny, make_tokenizer):
        other = load_tiny("llama")._replace(tokenizer=make_tokenizer(60))
        with pytest.raises(ConfigError, match="reference must have the tokenizer"):
            build_actor_critic(load_tiny("llama"), reference=other)

    def test_a_policy_without_adapters_needs_a_reference_of_its_own(self, load_tiny):
        policy = LanguageModel(load_tiny("gpt2").model)
        with pytest.raises(ConfigError, match="without adapters must have a reference of its own, got None"):
            SharedActorCritic(policy, None)
        add_adapter(policy.model, LoRA(rank=2))
        assert SharedActorCritic(policy, None).reference is None

    def test_adapter_dropout_is_refused(self, load_tiny):
        with pytest.raises(ConfigError, match="dropout of LoRA must be 0"):
            build_actor_critic(load_tiny("llama"), adapter=LoRA(dropout=0.1))

    def test_dropout_is_off_even_in_training_mode(self, load_tiny, make_tokens, rows):
        models = build_actor_critic(load_tiny("gpt2")).train()
        assert models.policy.model.training
        tokens = make_tokens(rows)
        logits = models.logits(tokens, tokens.attention_mask)
        assert torch.equal(models.logits(tokens, tokens.attention_mask), logits)
        assert torch.equal(models.reference_logits(tokens, tokens.attention_mask), logits)
