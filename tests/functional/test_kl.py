import math

import pytest
import torch

from lightning_rlhf.functional import KL_ESTIMATORS, kl_k1, kl_k2, kl_k3

LOGPROBS = torch.tensor([[-0.2, -1.5, -3.0], [-0.7, -0.1, -2.0]], dtype=torch.float64)
REF_LOGPROBS = torch.tensor([[-0.4, -1.0, -3.0], [-2.7, -0.3, -0.5]], dtype=torch.float64)
POLICY = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
REFERENCE = torch.tensor([0.25, 0.6, 0.15], dtype=torch.float64)
DIVERGENCE = 0.5 * math.log(2) + 0.2 * math.log(1 / 3) + 0.3 * math.log(2)


def test_estimators_by_hand():
    logprobs, ref_logprobs = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_k1(logprobs, ref_logprobs).item() == pytest.approx(math.log(2))
    assert kl_k2(logprobs, ref_logprobs).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_k3(logprobs, ref_logprobs).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_estimators_agree_with_a_slow_loop():
    pairs = zip(LOGPROBS.flatten().tolist(), REF_LOGPROBS.flatten().tolist(), strict=True)
    for index, (logprob, ref_logprob) in enumerate(pairs):
        d = logprob - ref_logprob
        assert kl_k1(LOGPROBS, REF_LOGPROBS).flatten()[index].item() == pytest.approx(d)
        assert kl_k2(LOGPROBS, REF_LOGPROBS).flatten()[index].item() == pytest.approx(d * d / 2)
        assert kl_k3(LOGPROBS, REF_LOGPROBS).flatten()[index].item() == pytest.approx(math.exp(-d) - 1 + d)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(name):
    estimates = KL_ESTIMATORS[name](POLICY.log(), REFERENCE.log())
    assert (POLICY * estimates).sum().item() == pytest.approx(DIVERGENCE)


@pytest.mark.parametrize(("name", "is_right"), [("k1", False), ("k2", True), ("k3", False)])
def test_only_k2_has_the_right_gradient_as_a_loss(name, is_right):
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    true = torch.autograd.grad((logprobs.exp() * (logprobs - REFERENCE.log())).sum(), logits, retain_graph=True)[0]
    # on samples of the policy: the weights of the expectation carry no gradient
    loss = (POLICY * KL_ESTIMATORS[name](logprobs, REFERENCE.log())).sum()
    assert torch.allclose(torch.autograd.grad(loss, logits)[0], true) == is_right


def test_equal_policies_have_no_divergence():
    for estimator in KL_ESTIMATORS.values():
        assert not estimator(LOGPROBS, LOGPROBS).any()


def test_k2_and_k3_are_never_negative_and_k1_is_not_clamped():
    assert (kl_k2(LOGPROBS, REF_LOGPROBS) >= 0).all()
    assert (kl_k3(LOGPROBS, REF_LOGPROBS) >= 0).all()
    assert kl_k1(torch.tensor([-60.0]), torch.tensor([-1.0])).item() == -59


def test_k3_keeps_its_digits_near_0():
    d = 1e-3
    value = kl_k3(torch.tensor([d], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).item()
    assert value == pytest.approx(d**2 / 2 - d**3 / 6 + d**4 / 24 - d**5 / 120, rel=1e-11, abs=0)


def test_the_mapping_holds_the_three_estimators_by_name():
    assert dict(KL_ESTIMATORS) == {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_gradients(name):
    inputs = (LOGPROBS.clone().requires_grad_(), REF_LOGPROBS.clone().requires_grad_())
    assert torch.autograd.gradcheck(KL_ESTIMATORS[name], inputs)
