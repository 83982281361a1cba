"""`lightning-rlhf inspect`: one row as the model sees it."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from rich.console import Console

from lightning_rlhf.cli.inspect.demonstrations import inspect_demonstration
from lightning_rlhf.cli.inspect.page import write_page
from lightning_rlhf.cli.inspect.prompts import inspect_prompt
from lightning_rlhf.cli.inspect.rankings import inspect_ranking
from lightning_rlhf.cli.inspect.tables import Inspection
from lightning_rlhf.cli.inspect.terminal import print_inspection
from lightning_rlhf.cli.lightning import trainer_surroundings
from lightning_rlhf.cli.prepared import STAGES, PreparedRun, UnstartedRun, quiet_trainer
from lightning_rlhf.data.rows import Row, Tally
from lightning_rlhf.data.storage import source_name
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.interfaces import SPLITS
from lightning_rlhf.terminal import escaped

__all__ = ["run"]

_WIDTH_OF_FILES = 120


def run(argv: Sequence[str]) -> int:
    """Run `inspect` with the words after it.

    Raises:
        LightningRLHFError: a mistake in the command or its config.
        SystemExit: the words are not understood (2), or help was asked for (0).
    """
    own, words = _parser().parse_known_args(argv)
    with trainer_surroundings(), quiet_trainer():
        prepared = UnstartedRun(words, own.stage).build()
        inspection = _inspected(prepared, _row(prepared, own.split, own.row), own.row)
    title = f"row {own.row} of {source_name(prepared.data.source)}, {own.split}"
    inspection = replace(inspection.without_tokens() if own.text else inspection, title=title)
    if own.html is None:
        wide = None if sys.stdout.isatty() else _WIDTH_OF_FILES
        print_inspection(Console(file=sys.stdout, highlight=False, width=wide), inspection)
    else:
        write_page(own.html, inspection)
        print(escaped(f"{title} is in {own.html}"))
    return 0


def _inspected(run: PreparedRun, row: Row, position: int) -> Inspection:
    match run.module.stage:
        case "sft":
            return inspect_demonstration(run, row)
        case "reward":
            return inspect_ranking(run, row)
        case _:
            return inspect_prompt(run, row, position)


def _row(run: PreparedRun, split: str, position: int) -> Row:
    tally = Tally()
    row = next(islice(run.data.stream(split, tally), position, None), None)
    if row is None:
        number = sum(1 for _ in run.data.stream(split, Tally()))
        raise ConfigError(
            f"--row must be below the number of usable rows of the {split} split, {number}, got {position}. "
            "Rows are counted from 0."
        )
    return row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-rlhf inspect",
        usage=(
            "lightning-rlhf inspect [--config FILE] [--stage STAGE] [--row N] [--split SPLIT] [--text] "
            "[--html FILE] [--name value ...]"
        ),
        description="Show one row as the model sees it, before anything is trained: its text with what is learned "
        "marked, tokens, ids and masks; the candidates of a ranking with their scores; in PPO the sampled responses "
        "with everything that is computed on each token.",
        epilog="All other options are those of `lightning-rlhf fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("--row", type=_not_negative, default=0, help="which one, counted from 0 (default: 0)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="where it stands (default: train)")
    parser.add_argument("--text", action="store_true", help="the row as text alone, without a line for each token")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page instead of printing tables")
    parser.add_argument("--stage", choices=list(STAGES), help="the stage, where the config does not name its classes")
    return parser


def _not_negative(word: str) -> int:
    number = int(word)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {number}")
    return number
