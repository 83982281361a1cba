"""`lightning-rlhf doctor`: looks at a run before it starts."""

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lightning_rlhf.cli.doctor.check import Check, CheckResult, Status, examine
from lightning_rlhf.cli.doctor.heads import RewardHead
from lightning_rlhf.cli.doctor.memory import Memory
from lightning_rlhf.cli.doctor.report import print_result, print_rows, shown_rows, summary
from lightning_rlhf.cli.doctor.responses import StopRate
from lightning_rlhf.cli.doctor.rows import Fields, GoodRows, LabelCoverage, Positions, PretrainingRows, Truncation
from lightning_rlhf.cli.doctor.scores import LengthInRanks, ScoreSpread, StartingScores
from lightning_rlhf.cli.doctor.step_zero import FrozenReference, KLIsZero, RatioIsOne
from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.cli.doctor.templates import RoundTrip, SupervisedText, TemplateChoice, UnknownTokens
from lightning_rlhf.cli.doctor.tokens import OneBOS, PadToken, StopTokens, Vocabulary
from lightning_rlhf.cli.lightning import trainer_surroundings
from lightning_rlhf.cli.prepared import STAGES, PreparedRun, UnstartedRun, quiet_trainer
from lightning_rlhf.errors import LightningRLHFError, ModelError

__all__ = ["CHECKS", "run"]

CHECKS: tuple[Check, ...] = (
    StopTokens(),
    PadToken(),
    GoodRows(),
    Fields(),
    Vocabulary(),
    OneBOS(),
    TemplateChoice(),
    RoundTrip(),
    SupervisedText(),
    UnknownTokens(),
    Truncation(),
    Positions(),
    LabelCoverage(),
    PretrainingRows(),
    LengthInRanks(),
    RewardHead(),
    StartingScores(),
    FrozenReference(),
    RatioIsOne(),
    KLIsZero(),
    StopRate(),
    ScoreSpread(),
    Memory(),
)
_FOUND = 1


def run(argv: Sequence[str]) -> int:
    """Run `doctor` with the words after it.

    Returns:
        1 if a check fails, else 0.

    Raises:
        LightningRLHFError: a mistake in the command or its config.
        SystemExit: the words are not understood (2), or help was asked for (0).
    """
    own, words = _parser().parse_known_args(argv)
    console = Console(file=sys.stdout, highlight=False)
    start = time.monotonic()
    results: list[CheckResult] = []
    with trainer_surroundings(), quiet_trainer():
        unstarted = UnstartedRun(words, own.stage)
        prepared, found = _built(unstarted)
        for result in found:
            results.append(result)
            print_result(console, result)
        if prepared is not None:
            subject = Subject(prepared, num_rows=own.rows, num_responses=own.responses)
            for result in examine(subject, CHECKS):
                results.append(result)
                print_result(console, result)
            _show_rows(console, subject)
    console.print(Text(summary(results, time.monotonic() - start), "bold"))
    return _FOUND if any(result.status is Status.FAIL for result in results) else 0


def _built(unstarted: UnstartedRun) -> tuple[PreparedRun | None, list[CheckResult]]:
    """The run, or what keeps it from being built where that is a finding."""
    try:
        return unstarted.build(), []
    except ModelError:
        named = unstarted.arguments.init_args.get("reward_model") or []
        found = RewardHead().unusable([named] if isinstance(named, str) else named)
        if not found:
            raise
        return None, found


def _show_rows(console: Console, subject: Subject) -> None:
    try:
        print_rows(console, shown_rows(subject))
    except LightningRLHFError:
        return  # a check has said why there are none


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-rlhf doctor",
        usage="lightning-rlhf doctor [--config FILE] [--stage STAGE] [--name value ...]",
        description="Look at a run before it starts, on its own model, data, template and plug-ins: nothing is trained "
        "or written. Prints PASS, WARN or FAIL for each check, with what to do; exits with 1 if one fails.",
        epilog="All other options are those of `lightning-rlhf fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("--stage", choices=list(STAGES), help="the stage, where the config does not name its classes")
    parser.add_argument("--rows", type=_positive, default=512, help="training rows that are read (default: 512)")
    parser.add_argument(
        "--responses", type=_positive, default=32, help="responses that are sampled and scored in PPO (default: 32)"
    )
    return parser


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
