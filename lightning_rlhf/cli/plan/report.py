"""What a plan says, as tables and as JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_rlhf.cli.estimate import Estimate, peak_estimate
from lightning_rlhf.cli.estimate.sizes import shown_bytes, shown_number, shown_time
from lightning_rlhf.cli.estimate.time import StepTimes
from lightning_rlhf.cli.plan.schedule import Schedule

__all__ = ["Plan", "as_json", "print_plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is known of a run before it starts.

    Args:
        stage: sft, reward or ppo.
        device: type of the device.
        parameters: of all models, each once.
        trained: of those, how many are trained.
        phases: peak memory on one device of each phase.
        available: bytes that the device has, for all processes on it.
        processes: of the run that share the device's memory.
        schedule: passes and steps.
        times: seconds of them; None: not measured.
    """

    stage: str
    device: str
    parameters: int
    trained: int
    phases: dict[str, Estimate]
    available: int
    processes: int
    schedule: Schedule
    times: StepTimes | None

    @property
    def peak(self) -> Estimate:
        """Of the phase that takes most."""
        return peak_estimate(self.phases)

    @property
    def fits(self) -> bool:
        """Whether all processes of the device find room there."""
        return self.peak.total * self.processes <= self.available


def as_json(plan: Plan) -> dict[str, Any]:
    """Numbers in bytes and seconds; null where one is not known."""
    schedule, times = plan.schedule, plan.times
    return {
        "stage": plan.stage,
        "device": plan.device,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "trained_share": plan.trained / plan.parameters,
        "memory": {
            "peak": plan.peak.total,
            "parts": plan.peak.parts(),
            "phases": {name: estimate.total for name, estimate in plan.phases.items()},
            "processes": plan.processes,
            "available": plan.available,
            "fits": plan.fits,
        },
        "schedule": {
            "passes_per_epoch": schedule.passes,
            "steps_per_epoch": schedule.steps,
            "responses_per_epoch": schedule.responses or None,
            "epochs": schedule.epochs,
        },
        "time": None
        if times is None
        else {
            "pass_s": times.pass_s,
            "optimizer_s": times.optimizer_s,
            "step_s": schedule.step_s(times),
            "rollout_s": None if times.rollout_s is None else times.rollout_s * schedule.responses,
            "response_length": times.response_length,
            "epoch_s": schedule.epoch_s(times),
            "run_s": schedule.run_s(times),
        },
    }


def print_plan(console: Console, plan: Plan) -> None:
    """Three tables: parameters, memory, time."""
    console.print(_table("", _parameters(plan)))
    console.print(_table(f"peak memory on each device ({plan.device})", _memory(plan)))
    console.print(_table("time, validation not included", _time(plan)))


def _table(title: str, rows: Iterator[tuple[str, str, str]]) -> Table:
    table = Table(title=title or None, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def _parameters(plan: Plan) -> Iterator[tuple[str, str, str]]:
    yield "parameters", shown_number(plan.parameters), "all models"
    yield "trained", shown_number(plan.trained), f"{plan.trained / plan.parameters:.2%}"


def _memory(plan: Plan) -> Iterator[tuple[str, str, str]]:
    peak = plan.peak
    for name, size in peak.parts().items():
        if size:
            yield name, shown_bytes(size), f"{size / peak.total:.0%}"
    phase = max(plan.phases, key=lambda name: plan.phases[name].total)
    yield "peak", shown_bytes(peak.total), f"in the phase: {phase}"
    for name, estimate in plan.phases.items():
        if name != phase:
            yield f"in the phase: {name}", shown_bytes(estimate.total), ""
    shared = f" for {plan.processes} processes" if plan.processes > 1 else ""
    yield "available", shown_bytes(plan.available), ("it fits" if plan.fits else "it does not fit") + shared


def _time(plan: Plan) -> Iterator[tuple[str, str, str]]:
    schedule, times = plan.schedule, plan.times
    epoch = "iteration" if plan.stage == "ppo" else "epoch"
    if times is None:
        yield "step", "not measured", "it would not fit" if not plan.fits else "--steps 0"
        return
    micro = f"{schedule.accumulate} micro-batches and " if schedule.accumulate > 1 else ""
    yield "step", shown_time(schedule.step_s(times)), f"{micro}the optimizer's {shown_time(times.optimizer_s)}"
    if times.rollout_s is not None:
        about = f"{schedule.responses} responses of {times.response_length:.0f} tokens on average"
        yield "rollout", shown_time(times.rollout_s * schedule.responses), about
    steps = "rows not counted" if schedule.steps is None else f"{shown_number(schedule.steps)} steps"
    yield epoch, _or_unknown(schedule.epoch_s(times)), steps
    length = "it has no end that is known" if schedule.epochs is None else f"{schedule.epochs:.3g} {epoch}s"
    yield "run", _or_unknown(schedule.run_s(times)), length


def _or_unknown(seconds: float | None) -> str:
    return "unknown" if seconds is None else shown_time(seconds)
