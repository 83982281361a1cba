"""The numbers that a run has logged, read back from its metrics.csv."""

import csv
from pathlib import Path

__all__ = ["curve", "last"]


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    """Step and value of a metric, in the order in which they were logged; empty if it never was.

    Args:
        run: root of the run.
        name: of the metric, for example `val/loss`.
    """
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as lines:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(lines) if row.get(name)]


def last(run: Path, name: str) -> float:
    """The last value of a metric; nan if it was never logged."""
    values = curve(run, name)
    return values[-1][1] if values else float("nan")
