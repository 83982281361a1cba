"""Samples for experiment trackers: a table where a logger has tables, text in TensorBoard."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

__all__ = ["log_samples"]

_KEY = "samples"


def log_samples(logger: Logger, columns: Sequence[str], rows: Sequence[Sequence[Any]], text: str, step: int) -> None:
    """Gives a logger the samples of a validation.

    A logger with a `log_table`, as that of Weights & Biases, gets a table per step. One whose client has it, as that of
    MLflow, gets rows with their step, which its client adds to those that the run has. Others get nothing: the file
    holds all.

    Args:
        logger: of the trainer.
        columns: headings.
        rows: text and numbers, None where a sample has none.
        text: the same in Markdown.
        step: of the run.
    """
    own: Any = logger
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(_KEY, text, step)
    elif callable(getattr(own, "log_table", None)):
        own.log_table(key=_KEY, columns=list(columns), data=[list(row) for row in rows], step=step)
    elif getattr(own, "run_id", None) is not None and callable(getattr(own.experiment, "log_table", None)):
        data = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
        own.experiment.log_table(own.run_id, data={"step": [step] * len(rows), **data}, artifact_file=f"{_KEY}.json")
