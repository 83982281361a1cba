import pytest
import torch

from lightning_rlhf.cli.estimate import places
from lightning_rlhf.cli.estimate.places import available_memory, num_devices, num_processes_here, num_ranks, num_shards
from lightning_rlhf.cli.prepared import Placement


def test_a_container_has_what_its_limit_says(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(places, "_CGROUP_LIMIT", limit)
    whole = available_memory(torch.device("cpu"))
    limit.write_text("4096\n")
    assert available_memory(torch.device("cpu")) == 4096 < whole
    limit.write_text("max\n")
    assert available_memory(torch.device("cpu")) > 4096


@pytest.mark.parametrize(("devices", "number"), [(3, 3), ("3", 3), ([1, 4], 2), ("0,1,2", 3), ("auto", 1), (-1, 1)])
def test_devices_are_counted_however_they_are_named(devices, number, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert num_devices(devices) == number


def test_processes_share_a_cpu_and_have_a_gpu_each():
    placement = Placement("ddp", 4, 2)
    assert num_ranks(placement) == 8
    assert num_processes_here(placement, torch.device("cpu")) == 4
    assert num_processes_here(placement, torch.device("cuda")) == 1


def test_only_fsdp2_shards_the_states_over_all_ranks():
    assert num_shards(Placement("ModelParallelStrategy", 4, 2)) == 8
    assert num_shards(Placement("ddp", 4, 2)) == num_shards(Placement("auto", 1, 1)) == 1
