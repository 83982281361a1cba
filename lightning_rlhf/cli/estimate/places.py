"""What memory there is, and how many processes share it."""

from pathlib import Path
from typing import Any

import psutil
import torch

from lightning_rlhf.cli.prepared import Placement

__all__ = ["available_memory", "num_devices", "num_processes_here", "num_ranks", "num_shards"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_memory(device: torch.device) -> int:
    """Bytes that this process has or can still get."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    there = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(int(there), int(limit)) if limit.isdecimal() else int(there)


def num_devices(devices: Any) -> int:
    """Devices of one machine, from what `trainer.devices` may be: a number, a list, or auto."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    number = int(devices) if str(devices).lstrip("-").isdecimal() else -1
    return number if number > 0 else max(torch.cuda.device_count(), 1)


def num_ranks(placement: Placement) -> int:
    """Processes of the run on all machines."""
    return num_devices(placement.devices) * placement.num_nodes


def num_processes_here(placement: Placement, device: torch.device) -> int:
    """Processes of the run that share the memory of a device: on a CPU all of the machine's."""
    return num_devices(placement.devices) if device.type == "cpu" else 1


def num_shards(placement: Placement) -> int:
    """Devices over which FSDP2 spreads the weights; else 1."""
    return num_ranks(placement) if "ModelParallel" in placement.strategy else 1
