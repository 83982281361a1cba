"""What a run will take, from passes over two and three rows: what `doctor` and `plan` tell."""

from lightning_rlhf.cli.estimate.memory import Estimate, estimate_memory, peak_estimate
from lightning_rlhf.cli.estimate.places import available_memory, num_devices, num_processes_here, num_ranks

__all__ = [
    "Estimate",
    "available_memory",
    "estimate_memory",
    "num_devices",
    "num_processes_here",
    "num_ranks",
    "peak_estimate",
]
