"""Will it fit?"""

from collections.abc import Iterator

from lightning_rlhf.cli.doctor.check import Check, CheckResult
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.cli.estimate import Estimate, available_memory, estimate_memory, num_processes_here, peak_estimate
from lightning_rlhf.cli.estimate.sizes import shown_bytes

__all__ = ["Memory"]

_TIGHT = 0.8
"""The estimate was measured to be within a fifth of what runs take; see docs/plan.md."""


class Memory(Check):
    """What a training step needs is less than what the device has."""

    name = "memory"

    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """One."""
        estimate = _estimate(subject)
        if estimate is None:
            return
        device = subject.module.device
        number = num_processes_here(subject.run.placement, device)
        needed, there = estimate.total * number, available_memory(device)
        facts = (
            f"about {shown_bytes(needed)} of the {shown_bytes(there)} that {device.type} has: "
            + ", ".join(f"{name} {shown_bytes(size)}" for name, size in estimate.parts().items() if size)
            + (f", in each of {number} processes" if number > 1 else "")
        )
        size = "minibatch_size" if subject.stage == "ppo" else "batch_size"
        fix = (
            f"Lower {size} and raise trainer.accumulate_grad_batches; set gradient_checkpointing; train an adapter; "
            "use trainer.precision bf16-true; or shard over devices with ModelParallelStrategy. What takes how much in "
            "which phase, lightning-rlhf plan says."
        )
        if needed > there:
            yield self.failed(facts, fix)
        elif needed > _TIGHT * there:
            yield self.warned(facts, fix)
        else:
            yield self.passed(facts)


def _estimate(subject: Subject) -> Estimate | None:
    """At the peak; None without rows."""
    rows = subject.sample.rows
    if not rows:
        return None
    return peak_estimate(estimate_memory(subject.run, list(subject.data.arrange(rows))))
