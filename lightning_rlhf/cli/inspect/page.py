"""An inspection as a page that needs nothing else."""

import html
from itertools import groupby
from pathlib import Path
from string import Template

from lightning_rlhf.cli.inspect.tables import Inspection, RowText, Table
from lightning_rlhf.cli.row_text import in_lines
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.terminal import visible

__all__ = ["write_page"]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .15rem .6rem; text-align: right; vertical-align: top; }
th { position: sticky; top: 0; background: #fff; }
.text { text-align: left; font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
p.row { font-size: 1.05rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { color: #767676; }
.learned { background: #e7f6e7; }
.stop { background: #f6e0f6; font-weight: bold; }
@media (prefers-color-scheme: dark) { body, th { background: #111; color: #ddd; } th, td { border-color: #333; }
  p.row { font-size: 1.05rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { color: #999; } .learned { background: #143014; } .stop { background: #3a163a; } }
</style>
</head>
<body>
<h1>$title</h1>
<dl>$facts</dl>
<p>Learned tokens are green, those that end a response purple, what is only read grey.</p>
$texts
$tables
</body>
</html>
""")
_TEXT_COLUMNS = ("token", "response")


def write_page(path: Path, inspection: Inspection) -> None:
    """Writes the page; everything that a file or a model wrote is escaped, and no script would run.

    Args:
        path: of the file.
        inspection: what it shows.

    Raises:
        ConfigError: the file cannot be written.
    """
    page = _PAGE.substitute(
        title=_escaped(inspection.title),
        facts="".join(
            f"<dt><b>{_escaped(name)}</b></dt><dd>{_escaped(fact)}</dd>" for name, fact in inspection.facts.items()
        ),
        texts="\n".join(_text(text) for text in inspection.texts),
        tables="\n".join(_table(table) for table in inspection.tables),
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html must name a file that can be written, got {path}: {error.strerror}.") from error


def _text(text: RowText) -> str:
    spans = []
    for kind, members in groupby(text.pieces, key=lambda piece: piece.kind):
        joined = "".join(piece.text for piece in members)
        spans.append(f'<span class="{kind}">{html.escape(in_lines(joined))}</span>')
    return f'<h2>{_escaped(text.title)}</h2>\n<p class="row">{"".join(spans)}</p>'


def _table(table: Table) -> str:
    classes = [' class="text"' if heading in _TEXT_COLUMNS else "" for heading in table.headings]
    head = "".join(f"<th{cls}>{_escaped(text)}</th>" for text, cls in zip(table.headings, classes, strict=True))
    lines = []
    for line, kind in zip(table.lines, table.kinds, strict=True):
        cells = "".join(f"<td{cls}>{_escaped(cell)}</td>" for cell, cls in zip(line, classes, strict=True))
        lines.append(f'<tr class="{kind}">{cells}</tr>')
    return f"<h2>{_escaped(table.title)}</h2>\n<table><thead><tr>{head}</tr></thead>{''.join(lines)}</table>"


def _escaped(text: str) -> str:
    return html.escape(visible(text))
