"""The files that metrics go to: beside a user's own logger, too."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_rlhf.checkpoints.run_directory import RunDirectory
from lightning_rlhf.checkpoints.run_files import METRICS_FILE
from lightning_rlhf.files import clear_storage_errors, written_beside

__all__ = ["LateTensorBoard", "MetricsFile", "default_loggers", "with_metrics_file"]


def default_loggers(directory: RunDirectory, subcommand: str) -> list[Logger]:
    """`metrics.csv` and TensorBoard for a `fit`; for an evaluation a file beside them, so that no curve is touched."""
    if subcommand != "fit":
        return [MetricsFile(directory.path, f"metrics-{subcommand}.csv")]
    tensorboard = LateTensorBoard if directory.resumes else TensorBoardLogger
    return [
        MetricsFile(directory.path, resume=directory.resumes),
        tensorboard(directory.path, name="tensorboard", version="", default_hp_metric=False),
    ]


def with_metrics_file(own: Logger | Iterable[Logger], directory: RunDirectory, subcommand: str) -> list[Logger]:
    """A user's own loggers, and the file of metrics beside them: what reads a run's root finds it there."""
    file = default_loggers(directory, subcommand)[0]
    return [*([own] if isinstance(own, Logger) else own), file]


class LateTensorBoard(TensorBoardLogger):
    """TensorBoard's curves of a run that is resumed, of which no file is begun before the run has gone on by a step.

    Lightning opens every logger first of all; a resume that is refused afterwards would have left files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._has_begun = False
        self._hyperparameters: tuple[Any, ...] | None = None

    @property
    def experiment(self) -> Any:
        """The writer; until the run has begun one that writes nothing."""
        return super().experiment if self._has_begun else _DummyExperiment()

    def begin(self) -> None:
        """The run has made a step."""
        if not self._has_begun:
            self._has_begun = True
            if self._hyperparameters is not None:
                self.log_hyperparams(*self._hyperparameters)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keeps them until the run has begun."""
        if self._has_begun:
            super().log_hyperparams(*args, **kwargs)
        else:
            self._hyperparameters = args

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Begins, and logs."""
        self.begin()
        super().log_metrics(metrics, step)

    def save(self) -> None:
        """Writes what is to be written, if anything is."""
        if self._has_begun:
            super().save()

    def finalize(self, status: str) -> None:
        """Closes the file, if there is one."""
        if self._has_begun:
            super().finalize(status)


class MetricsFile(Logger):
    """One CSV file, a row per logged step, on disk at once.

    Args:
        root: directory of the file.
        name: name of the file.
        resume: keep the rows that are there, less those that a resumed run computes again: all after its first step,
            and of that step those that hold the same metrics.
    """

    def __init__(self, root: Path, name: str = METRICS_FILE, *, resume: bool = False) -> None:
        super().__init__()
        self._root = root
        self._path = root / name
        self._columns: list[str] | None = None
        self._resume = resume
        self._first_step = 0
        self._num_earlier = 0  # rows at the file's head that an earlier part of the run logged

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
            self._first_step = row["step"]
            earlier = self._rows() if self._resume else []
            kept = [
                there for there in earlier if not _is_logged_again(there, row) and int(there["step"]) <= row["step"]
            ]
            self._num_earlier = len(kept)
            self._write([*kept, row])
        elif self._num_earlier and row["step"] == self._first_step:
            rows = self._rows()
            kept = [there for there in rows[: self._num_earlier] if not _is_logged_again(there, row)]
            later, self._num_earlier = rows[self._num_earlier :], len(kept)
            self._write([*kept, *later, row])
        elif set(row) <= set(self._columns) and self._path.exists():
            with clear_storage_errors(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._write([*self._rows(), row])

    def _rows(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            lines = file.readlines()
        if lines and not lines[-1].endswith("\n"):
            del lines[-1]  # a kill cut it off
        return list(csv.DictReader(lines))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """The whole file again: a new column changes its header."""
        names = {name for row in rows for name in row} - {"epoch", "step"}
        self._columns = ["epoch", "step", *sorted(names)]
        with written_beside(self._path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def _is_logged_again(there: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a row of an earlier part of the run is the one that is logged now."""
    names = {name for name, value in there.items() if value not in ("", None)} - {"epoch", "step"}
    return int(there["step"]) == row["step"] and not names.isdisjoint(row)
