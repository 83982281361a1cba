"""`report.html`: what the demo measured, as one file that needs nothing else."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

from lightning_rlhf.cli.demo.curves import curve
from lightning_rlhf.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Table", "draw_curves", "write_report"]


class Table(NamedTuple):
    """Rows of text under headings."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>lightning-rlhf demo</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: left; vertical-align: top; }
img { max-width: 100%; }
code { background: #f4f4f4; padding: 0 .2rem; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } code { background: #222; }
  img { background: #fff; } }
</style>
</head>
<body>
<h1>lightning-rlhf demo</h1>
<p>$summary</p>
$tables
<h2>Learning curves</h2>
<img alt="Learning curves of the four stages" src="data:image/png;base64,$picture">
<h2>The commands</h2>
<pre>$commands</pre>
</body>
</html>
""")


def write_report(
    path: Path, *, summary: str, tables: Iterable[Table], commands: Sequence[str], figure: "Figure"
) -> None:
    """Writes the page; everything that a model wrote is escaped.

    Args:
        path: of the file.
        summary: one paragraph.
        tables: shown in this order.
        commands: the command lines that the demo stands for.
        figure: the curves.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    page = _PAGE.substitute(
        summary=html.escape(summary),
        tables="\n".join(_table(table) for table in tables),
        picture=base64.b64encode(picture.getvalue()).decode("ascii"),
        commands=html.escape("\n".join(commands)),
    )
    path.write_text(page, encoding="utf-8")


def draw_curves(output: Path) -> "Figure":
    """Losses, accuracy, score and KL over steps, and the score against the KL: how much was paid for what.

    Args:
        output: folder of the demo.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "the demo must find the package matplotlib, got none. Install it: pip install 'lightning-rlhf[demo]'"
        ) from None
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = (
        ("pretraining: loss", "pretrain", {"train/loss": "training", "val/loss": "held out"}, "nats per token"),
        ("SFT: loss", "sft", {"train/loss": "training", "val/loss": "held out"}, "nats per token"),
        ("reward model: held-out pairs", "reward", {"val/accuracy": ""}, "accuracy"),
        ("PPO: score of the rollouts", "ppo", {"objective/scores": ""}, "score"),
        ("PPO: KL to the SFT model", "ppo", {"objective/kl": ""}, "nats per response"),
    )
    for place, (title, stage, metrics, unit) in enumerate(panels, start=1):
        axes = figure.add_subplot(2, 3, place)
        for metric, label in metrics.items():
            points = curve(output / stage, metric)
            marker = "" if metric == "train/loss" else "."
            axes.plot([step for step, _ in points], [value for _, value in points], label=label, marker=marker)
        if len(metrics) > 1:
            axes.legend()
        axes.set(title=title, xlabel="optimizer steps", ylabel=unit)
    axes = figure.add_subplot(2, 3, 6)
    kls = [value for _, value in curve(output / "ppo", "objective/kl")]
    scores = [value for _, value in curve(output / "ppo", "objective/scores")]
    points_drawn = axes.scatter(kls, scores, c=range(len(kls)), cmap="viridis")
    figure.colorbar(points_drawn, ax=axes, label="iteration")
    axes.set(title="PPO: score against KL", xlabel="KL, nats per response", ylabel="score")
    return figure


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in table.headings)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f"<h2>{html.escape(table.title)}</h2>\n<table><tr>{head}</tr>{body}</table>"
