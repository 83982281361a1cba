"""The score against the KL that was paid for it: as a file of numbers and as a picture."""

import csv
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_rlhf.callbacks.collapse_signs import IterationRecord
from lightning_rlhf.files import written_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["can_draw", "draw_score_curve", "write_score_curve"]

_COLUMNS = ("entropy", "response_length", "distinct_2", "stop_rate")


def write_score_curve(path: Path, records: Sequence[IterationRecord]) -> None:
    """Writes a CSV file, a row per iteration.

    Args:
        path: the file; replaced in one step.
        records: of the run so far.
    """
    names = list(dict.fromkeys(name for record in records for name in record.heldout))
    with written_beside(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heldout = [f"{what}/{name}" for name in names for what in ("heldout", "heldout_deviation")]
        writer.writerow(["iteration", "step", "kl", "score", "score_deviation", *heldout, *_COLUMNS, "causes"])
        writer.writerows(_row(record, names) for record in records)


def _row(record: IterationRecord, names: Sequence[str]) -> list[Any]:
    scores = [each.get(name, "") for name in names for each in (record.heldout, record.heldout_deviation)]
    head = [record.iteration, record.step, record.kl, record.score, record.score_deviation]
    return [*head, *scores, *(getattr(record, name) for name in _COLUMNS), " ".join(record.causes)]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_score_curve(path: Path, records: Sequence[IterationRecord]) -> None:
    """Draws the trained score and each held-out score over the KL, a panel each, in the colours of time.

    Args:
        path: the file; its ending says in which format.
        records: of the run so far, at least one.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for record in records for name in record.heldout))
    figure = Figure(figsize=(7, 2.6 * (1 + len(names)) + 0.6), layout="constrained")
    panels: Any = figure.subplots(1 + len(names), 1, sharex=True, squeeze=False)[:, 0]
    _draw(panels[0], "score (trained)", [(record, record.score) for record in records])
    for axes, name in zip(panels[1:], names, strict=True):
        scores = [(record, record.heldout[name]) for record in records if name in record.heldout]
        _draw(axes, f"{name} (held out)", scores)
    panels[-1].set_xlabel("KL to the reference, nats per response")
    points = panels[0].collections[0]
    figure.colorbar(points, ax=list(panels), label="iteration")
    with (
        written_beside(path) as beside,
        # the same records make the same file
        rc_context({"svg.hashsalt": "lightning_rlhf"}),
    ):
        figure.savefig(beside, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw(axes: "Axes", label: str, scores: Sequence[tuple[IterationRecord, float]]) -> None:
    kls = [record.kl for record, _ in scores]
    values = [value for _, value in scores]
    axes.plot(kls, values, color="0.8", linewidth=1, zorder=1)
    axes.scatter(kls, values, c=[record.iteration for record, _ in scores], cmap="viridis", s=14, zorder=2)
    broken = [(record.kl, value) for record, value in scores if record.causes]
    if broken:
        xs, ys = [kl for kl, _ in broken], [value for _, value in broken]
        axes.scatter(xs, ys, s=50, facecolors="none", edgecolors="tab:red", label="breaks a limit")
        axes.legend()
    axes.set_ylabel(label)
