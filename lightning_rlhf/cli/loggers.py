"""The files that metrics go to when the user asks for no logger of their own."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_rlhf.cli.run_directory import METRICS_FILE, RunDirectory

__all__ = ["MetricsFile", "default_loggers"]


def default_loggers(directory: RunDirectory, subcommand: str) -> list[Logger]:
    """`metrics.csv` and TensorBoard for a `fit`; for an evaluation a file beside them, so that no curve is touched."""
    if subcommand != "fit":
        return [MetricsFile(directory.path, f"metrics-{subcommand}.csv")]
    return [
        MetricsFile(directory.path, resume=directory.resumes),
        TensorBoardLogger(directory.path, name="tensorboard", version="", default_hp_metric=False),
    ]


class MetricsFile(Logger):
    """One CSV file, a row per logged step, on disk at once.

    Args:
        root: directory of the file.
        name: name of the file.
        resume: keep the rows that are there, less those from the first new step on: a resumed run computes them again.
    """

    def __init__(self, root: Path, name: str = METRICS_FILE, *, resume: bool = False) -> None:
        super().__init__()
        self._root = root
        self._path = root / name
        self._columns: list[str] | None = None
        self._resume = resume

    @property
    def name(self) -> str:
        """Empty: there is no folder per experiment."""
        return ""

    @property
    def version(self) -> str:
        """Empty: there is no folder per version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The root of the run."""
        return str(self._root)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them all."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row: dict[str, Any] = {"step": 0 if step is None else step, **metrics}
        if self._columns is None:
            kept = self._rows_before(row["step"]) if self._resume else []
            self._write([*kept, row])
        elif set(row) <= set(self._columns):
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._write([*self._rows(), row])

    def _rows(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rows_before(self, step: int) -> list[dict[str, Any]]:
        return [row for row in self._rows() if int(row["step"]) < step]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """The whole file again: a new column changes its header."""
        names = {name for row in rows for name in row} - {"epoch", "step"}
        self._columns = ["epoch", "step", *sorted(names)]
        self._root.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.part")
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(self._path)
