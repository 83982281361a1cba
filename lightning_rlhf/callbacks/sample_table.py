"""Shows what the model writes, at every validation."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rlhf.callbacks.logged_samples import log_samples
from lightning_rlhf.files import clear_storage_errors, private, written_beside
from lightning_rlhf.terminal import escaped

__all__ = ["Sample", "SampleTable"]

_MARKUP = frozenset("!\"#&'()*<>[\\]_`|~")


@dataclass(frozen=True, slots=True)
class Sample:
    """One response to show.

    Args:
        prompt: as rendered for the model.
        response: decoded, without stop tokens.
        scores: per scorer, under its own name.
        kl: to the reference, nats per response; None where there is no reference.
        label: what kind of sample it is, for example greedy or sampled.
    """

    prompt: str
    response: str
    scores: Mapping[str, float] = field(default_factory=dict)
    kl: float | None = None
    label: str = ""


class SampleTable(Callback):
    """A table of prompts and responses at every validation: in the terminal; of a fit also in the logger and in
    `samples.jsonl`.

    Args:
        num_rows: samples shown in the terminal and in the logger; the file gets all that the module offers.
        file: name of the file in `trainer.default_root_dir`.
    """

    def __init__(self, num_rows: int = 4, file: str = "samples.jsonl") -> None:
        self.num_rows = num_rows
        self.file = file
        self._resumes = False
        self._writes = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The files are the training's: an evaluation and a trial run (`fast_dev_run`) write none."""
        self._writes = stage == "fit" and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed run validates again what came after its checkpoint."""
        self._resumes = trainer.ckpt_path is not None

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Takes the module's samples and shows them; nothing during the sanity check."""
        samples: list[Sample] = pl_module.take_samples()
        if trainer.sanity_checking or not samples or not trainer.is_global_zero:
            return
        step = trainer.global_step
        self._show(samples[: self.num_rows], step)
        if not self._writes:
            return
        path = Path(trainer.default_root_dir) / self.file
        if self._resumes and path.exists():
            _forget(path, step)
        self._resumes = False
        rows = [{"step": step, "epoch": trainer.current_epoch, **asdict(sample)} for sample in samples]
        with clear_storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8", opener=private) as lines:
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        shown = samples[: self.num_rows]
        for logger in trainer.loggers:
            log_samples(logger, *_table(shown), _markdown(shown), step)

    def _show(self, samples: list[Sample], step: int) -> None:
        # Text, not markup: responses and names may hold anything, square brackets included
        table = Table(title=f"samples after {step} steps", show_lines=True, title_justify="left")
        columns = _number_columns(samples)
        table.add_column("", no_wrap=True)
        for heading in ("prompt", "response"):
            table.add_column(heading, overflow="fold", ratio=1)
        for heading in columns:
            table.add_column(Text(escaped(heading)), justify="right", no_wrap=True)
        for row, sample in enumerate(samples):
            texts = [sample.label, _shortened(sample.prompt), _shortened(sample.response)]
            table.add_row(*(Text(escaped(text)) for text in texts), *(column[row] for column in columns.values()))
        Console(file=sys.stdout).print(table)


def _forget(path: Path, step: int) -> None:
    """Takes the samples of this step and of later ones out of the file, and a line that a kill cut off."""
    lines = path.read_bytes().splitlines(keepends=True)  # of bytes: text may hold other ends of lines
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] < step]
    with written_beside(path) as beside, open(beside, "wb", opener=private) as file:
        file.writelines(kept)


def _shortened(text: str, length: int = 400) -> str:
    """The end of a long text: of a prompt it is what the response answers."""
    return text if len(text) <= length else f"… {text[-length:]}"


def _number_columns(samples: list[Sample]) -> dict[str, list[str]]:
    """Scores and KL by heading, one entry per sample; no column that is empty."""
    names = dict.fromkeys(name for sample in samples for name in sample.scores)
    values = {name: [sample.scores.get(name) for sample in samples] for name in names}
    values["KL"] = [sample.kl for sample in samples]
    return {
        heading: ["" if value is None else f"{value:.2f}" for value in column]
        for heading, column in values.items()
        if any(value is not None for value in column)
    }


def _table(samples: list[Sample]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows with the numbers as they are."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.scores))
    rows = [
        [sample.label, sample.prompt, sample.response, *(sample.scores.get(name) for name in names), sample.kl]
        for sample in samples
    ]
    return ["sample", "prompt", "response", *(f"scores/{name}" for name in names), "kl"], rows


def _markdown(samples: list[Sample]) -> str:
    columns = _number_columns(samples)
    headings = ["sample", "prompt", "response", *columns]
    lines = ["| " + " | ".join(map(_literal, headings)) + " |", "|---" * len(headings) + "|"]
    for row, sample in enumerate(samples):
        cells = [sample.label, sample.prompt, sample.response, *(column[row] for column in columns.values())]
        lines.append("| " + " | ".join(map(_literal, cells)) + " |")
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Text that Markdown and HTML show as it is: a response must not fetch a picture or end the table."""
    lines = "".join(f"&#{ord(sign)};" if sign in _MARKUP else sign for sign in text).splitlines()
    return "<br>".join(lines)
