"""Gradients of the policy that are taken before the values are computed: the same, and their activations are free."""

import weakref

import pytest
import torch
from torch import nn

from lightning_rlhf.models import LoRA
from lightning_rlhf.models.actor_critic import ActorCritic, AdapterActorCritic
from lightning_rlhf.modules.early_gradients import with_gradients_taken


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(2, 2)])


def loss_of(net):
    return net[1](net[0](torch.arange(6.0).view(2, 3)).tanh()).square().sum()


def test_the_backward_pass_hands_out_the_same_gradients(net):
    (3 * loss_of(net)).backward()
    expected = [weight.grad.clone() for weight in net[:2].parameters()]
    net.zero_grad()
    loss = with_gradients_taken(loss_of(net), net.parameters())
    assert loss.item() == loss_of(net).item()
    assert all(weight.grad is None for weight in net.parameters())
    (3 * loss).backward()
    for weight, gradient in zip(net[:2].parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    assert all(weight.grad is None for weight in net[2].parameters())


def test_frozen_weights_get_none(net):
    net[0].requires_grad_(False)
    with_gradients_taken(loss_of(net), net.parameters()).backward()
    assert net[0].weight.grad is None
    assert net[1].weight.grad is not None


def test_the_graph_is_free(net):
    loss = loss_of(net)
    with_gradients_taken(loss, net.parameters())
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


class Kept:
    """A tensor that the policy's backward pass needs."""

    def __init__(self, tensor):
        self.tensor = tensor


@pytest.fixture
def policy_is_kept(monkeypatch):
    """Whether the policy's activations still lived, each time that a training step computed the values."""
    seen, last = [], []
    logits, values = ActorCritic.logits, AdapterActorCritic.values

    def kept(tensor):
        packed = Kept(tensor)
        last.append(weakref.ref(packed))
        return packed

    def recorded(self, *args):
        last.clear()
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda packed: packed.tensor):
            return logits(self, *args)

    def asked(self, *args):
        if torch.is_grad_enabled():
            assert last
            seen.append(any(reference() is not None for reference in last))
        return values(self, *args)

    monkeypatch.setattr(ActorCritic, "logits", recorded)
    monkeypatch.setattr(AdapterActorCritic, "values", asked)
    return seen


def test_with_adapters_the_policys_activations_are_free_when_the_values_are_computed(kit, tmp_path, policy_is_kept):
    kit.fit(kit.ppo(adapter=LoRA(rank=2)), tmp_path, limit_val_batches=0)
    assert policy_is_kept
    assert not any(policy_is_kept)


def test_loss_scaling_keeps_the_plain_way(kit, tmp_path, policy_is_kept):
    run = kit.ppo(adapter=LoRA(rank=2))
    trainer = kit.trainer(tmp_path, limit_val_batches=0)
    trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu", enabled=False)
    trainer.fit(*run)
    assert all(policy_is_kept)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_is_the_same_as_without_it(kit, tmp_path, monkeypatch, accumulate):
    ends = []
    for is_early in (True, False):
        monkeypatch.setattr(AdapterActorCritic, "has_small_gradients", is_early)
        pretraining = {"ptx_source": kit.Demonstrations()}
        module, data = kit.ppo(adapter=LoRA(rank=2), ptx_coef=0.3, gradient_checkpointing=True, data=pretraining)
        kit.fit((module, data), tmp_path, max_epochs=2, accumulate_grad_batches=accumulate, limit_val_batches=0)
        ends.append({name: weight.detach().clone() for name, weight in module.named_parameters()})
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, atol=1e-5, rtol=1e-4, msg=name)
