import pytest
import torch

from lightning_rlhf.cli.doctor import memory
from lightning_rlhf.cli.doctor.memory import Memory, available_memory, saved_bytes
from lightning_rlhf.cli.prepared import Placement
from lightning_rlhf.models import LoRA

STAGES = ("sft", "reward", "ppo")


@pytest.mark.parametrize("stage", STAGES)
def test_a_device_with_too_little_memory_fails_and_one_with_barely_enough_warns(kit, stage, monkeypatch):
    subject = kit.subject(stage)
    needed = memory._estimate(subject).total
    for there, status in ((needed - 1, "FAIL"), (needed + 1, "WARN"), (2 * needed, "PASS")):
        monkeypatch.setattr(memory, "available_memory", lambda device, there=there: there)
        assert kit.statuses(Memory(), subject) == [status]


def test_saved_bytes_are_those_of_the_tensors_that_backward_needs():
    weight = torch.nn.Parameter(torch.ones(8, 8))
    inputs = torch.ones(4, 8)
    # the input (4 x 8) and the exponential's output (4 x 8), and twice the largest for the backward pass
    assert saved_bytes(lambda: (inputs @ weight).exp().sum(), [weight]) == 4 * (32 + 32 + 2 * 32)


def test_activations_grow_with_the_batch_and_weights_do_not(kit):
    small, large = (memory._estimate(kit.subject("sft", data={"batch_size": size})) for size in (2, 8))
    assert (small.weights, small.optimizer) == (large.weights, large.optimizer)
    assert 3 < large.activations / small.activations < 4.5


def test_an_adapter_saves_gradients_and_optimizer(kit):
    whole, adapter = (memory._estimate(kit.subject("sft", adapter=lora)) for lora in (None, LoRA(rank=1)))
    assert adapter.gradients < whole.gradients / 4
    assert adapter.weights == whole.weights + adapter.gradients
    assert whole.optimizer == 2 * whole.gradients
    assert 0 <= whole.weights - whole.gradients < 100  # the buffers of metrics


def test_shards_divide_the_states_and_ddp_keeps_buckets(kit):
    one = memory._estimate(kit.subject("sft"))
    sharded = memory._estimate(kit.subject("sft", placement=Placement("ModelParallelStrategy", 4, 2)))
    replicated = memory._estimate(kit.subject("sft", placement=Placement("ddp", 4, 1)))
    assert (sharded.weights, sharded.optimizer) == (one.weights // 8, one.optimizer // 8)
    assert (replicated.gradients, replicated.weights) == (2 * one.gradients, one.weights)


def test_processes_on_one_cpu_share_its_memory(kit, monkeypatch):
    subject = kit.subject("sft", placement=Placement("ddp", "2", 1))
    needed = memory._estimate(subject).total
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * needed - 1)
    result = kit.only(Memory(), subject)
    assert (result.status, "2 processes" in result.finding) == ("FAIL", True)


def test_a_container_has_what_its_limit_says(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", limit)
    whole = available_memory(torch.device("cpu"))
    limit.write_text("4096\n")
    assert available_memory(torch.device("cpu")) == 4096 < whole
    limit.write_text("max\n")
    assert available_memory(torch.device("cpu")) > 4096


@pytest.mark.parametrize(("devices", "number"), [(3, 3), ("3", 3), ([1, 4], 2), ("0,1,2", 3), ("auto", 1), (-1, 1)])
def test_devices_are_counted_however_they_are_named(devices, number, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert memory._num_devices(devices) == number
