"""What of a checkpoint is put in force when training goes on."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_rlhf.modules.metrics import WindowLoss
from lightning_rlhf.modules.resumed_state import ResumedState
from lightning_rlhf.modules.resuming import random_state


def module_of(world_size, rank):
    trainer = SimpleNamespace(world_size=world_size, global_rank=rank, optimizers=[], lr_scheduler_configs=[])
    layer = nn.Linear(2, 1)
    return SimpleNamespace(trainer=trainer, layer=layer, named_parameters=layer.named_parameters)


def states(number):
    found = []
    for seed in range(number):
        torch.manual_seed(100 + seed)
        found.append(random_state())
    return found


@pytest.mark.parametrize(("written_by", "world_size"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)])
def test_a_rank_goes_on_with_its_own_generator_where_there_are_as_many_processes_as_before(written_by, world_size):
    """Elsewhere each has the one that its seed gave it: the states of one process cannot be those of two."""
    saved = states(written_by)
    for rank in range(world_size):
        resumed, module = ResumedState(), module_of(world_size, rank)
        resumed.load({"lightning_rlhf": {"random_states": saved}})
        torch.manual_seed(5 + rank)
        expected = saved[rank]["torch"] if written_by == world_size else torch.get_rng_state()
        resumed.put_in_force(module, WindowLoss())
        assert torch.equal(torch.get_rng_state(), expected)
        torch.manual_seed(7)
        expected = torch.get_rng_state()
        resumed.put_in_force(module, WindowLoss())  # once is all
        assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_accumulation_window_of_one_process_goes_on_in_one_and_is_said_to_be_cut_in_two(world_size):
    gradients = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}
    resumed, module, loss = ResumedState(), module_of(world_size, 0), WindowLoss()
    resumed.load({"lightning_rlhf": {"window": {"loss": torch.tensor(0.5), "gradients": gradients}}})
    if world_size == 1:
        resumed.put_in_force(module, loss)
        assert torch.equal(module.layer.weight.grad, gradients["weight"])
        assert torch.equal(module.layer.bias.grad, gradients["bias"])
    else:
        with pytest.warns(UserWarning, match="the first step is made of the rest of the window alone"):
            resumed.put_in_force(module, loss)
        assert module.layer.weight.grad is None
    assert float(loss.total) == 0.5
