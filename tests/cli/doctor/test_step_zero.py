import pytest
import torch

from lightning_rlhf.cli.doctor.step_zero import FrozenReference, KLIsZero, RatioIsOne
from lightning_rlhf.models import LoRA

VARIANTS = [{}, {"value_model": "shared"}, {"adapter": LoRA(rank=2)}]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("check", [RatioIsOne(), KLIsZero(), FrozenReference()])
def test_a_run_as_it_should_start_passes(kit, check, options):
    assert kit.statuses(check, kit.subject("ppo", **options)) == ["PASS"]


def test_half_precision_passes_within_its_own_bounds(kit):
    subject = kit.subject("ppo", trainer={"precision": "bf16-mixed"})
    assert kit.statuses(RatioIsOne(), subject) == kit.statuses(KLIsZero(), subject) == ["PASS"]


def test_randomness_while_training_fails_the_ratio(kit):
    subject = kit.subject("ppo")

    def noise(module, inputs, output):
        return output + torch.randn_like(output) if module.training else output

    subject.ppo.actor_critic.policy.model.lm_head.register_forward_hook(noise)
    result = kit.only(RatioIsOne(), subject)
    assert result.status == "FAIL"
    assert "clip fraction 0." in result.finding
    assert "dropout" in result.fix


def test_a_reference_that_is_not_the_base_fails(kit):
    subject = kit.subject("ppo")
    with torch.no_grad():
        subject.ppo.actor_critic.reference.model.lm_head.weight.normal_()
    assert kit.statuses(KLIsZero(), subject) == ["FAIL"]


def test_a_reference_that_was_named_may_differ(kit):
    subject = kit.subject("ppo", reference=kit.Altered(seed=5))
    result = kit.only(KLIsZero(), subject)
    assert (result.status, "reference of its own" in result.finding) == ("PASS", True)


def test_a_reference_with_trained_weights_fails(kit):
    subject = kit.subject("ppo")
    subject.ppo.actor_critic.reference.model.lm_head.requires_grad_(True)
    result = kit.only(FrozenReference(), subject)
    assert (result.status, "lm_head" in result.finding) == ("FAIL", True)


def test_a_reference_that_shares_weights_with_the_policy_fails(kit):
    subject = kit.subject("ppo")
    actor_critic = subject.ppo.actor_critic
    actor_critic.reference.model.lm_head.weight.data = actor_critic.policy.model.lm_head.weight.data
    result = kit.only(FrozenReference(), subject)
    assert (result.status, "shares weights" in result.finding) == ("FAIL", True)


def test_a_trained_weight_below_the_adapters_fails(kit):
    subject = kit.subject("ppo", adapter=LoRA(rank=2))
    subject.ppo.actor_critic.policy.model.lm_head.requires_grad_(True)
    result = kit.only(FrozenReference(), subject)
    assert (result.status, "below the adapters" in result.finding) == ("FAIL", True)
