"""`lightning-rlhf plan`: parameters, memory and time of a run before it starts."""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from lightning_rlhf.cli.estimate import available_memory, estimate_memory, num_processes_here, peak_estimate
from lightning_rlhf.cli.estimate.time import measure_times
from lightning_rlhf.cli.lightning import trainer_surroundings
from lightning_rlhf.cli.plan.report import Plan, as_json, print_plan
from lightning_rlhf.cli.plan.rows import training_rows
from lightning_rlhf.cli.plan.schedule import run_schedule
from lightning_rlhf.cli.prepared import STAGES, PreparedRun, UnstartedRun, quiet_trainer

__all__ = ["plan_of", "run"]

_WIDTH_OF_FILES = 120


def run(argv: Sequence[str]) -> int:
    """Run `plan` with the words after it.

    Raises:
        LightningRLHFError: a mistake in the command or its config.
        SystemExit: the words are not understood (2), or help was asked for (0).
    """
    own, words = _parser().parse_known_args(argv)
    with trainer_surroundings(), quiet_trainer():
        plan = plan_of(UnstartedRun(words, own.stage).build(), own.rows, own.steps)
    if own.json:
        print(json.dumps(as_json(plan), indent=2))
    else:
        wide = None if sys.stdout.isatty() else _WIDTH_OF_FILES
        print_plan(Console(file=sys.stdout, highlight=False, width=wide), plan)
    return 0


def plan_of(prepared: PreparedRun, num_rows: int, num_steps: int) -> Plan:
    """What a run will take.

    Args:
        prepared: the run; its weights stay as they are.
        num_rows: rows of the training split that are read at most.
        num_steps: steps that are timed; 0: none.

    Raises:
        LightningRLHFError: the rows cannot be read, or a scorer fails.
    """
    module = prepared.module
    rows = training_rows(prepared, num_rows)
    phases = estimate_memory(prepared, rows.rows)
    number = num_processes_here(prepared.placement, module.device)
    there = available_memory(module.device)
    timed = num_steps > 0 and peak_estimate(phases).total * number <= there
    parameters = list(module.parameters())
    given = [weight for group in module.parameter_groups() for weight in group["params"] if weight.requires_grad]
    return Plan(
        stage=module.stage,
        device=module.device.type,
        parameters=sum(weight.numel() for weight in parameters),
        trained=sum(weight.numel() for weight in given),
        phases=phases,
        available=there,
        processes=number,
        schedule=run_schedule(prepared, rows.number),
        times=measure_times(prepared, rows.rows, num_steps) if timed else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-rlhf plan",
        usage="lightning-rlhf plan [--config FILE] [--stage STAGE] [--json] [--name value ...]",
        description="Say what a run will take before it starts: parameters, peak memory per device by part, and time. "
        "Memory is worked out from passes over two and three of the longest rows; time is measured on a few steps, "
        "where they fit, in which no weight moves. Nothing is written into the run's directory. On a CPU the peak is "
        "what the process takes beyond what it has with all libraries imported and no model loaded; on a GPU what "
        "torch.cuda.max_memory_allocated says.",
        epilog="All other options are those of `lightning-rlhf fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("--stage", choices=list(STAGES), help="the stage, where the config does not name its classes")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes and seconds, instead of tables")
    parser.add_argument(
        "--rows", type=_positive, default=512, help="training rows that are read, from the first (default: 512)"
    )
    parser.add_argument("--steps", type=_not_negative, default=3, help="steps that are timed; 0: none (default: 3)")
    return parser


def _positive(word: str) -> int:
    return _number(word, 1)


def _not_negative(word: str) -> int:
    return _number(word, 0)


def _number(word: str, least: int) -> int:
    number = int(word)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {number}")
    return number
