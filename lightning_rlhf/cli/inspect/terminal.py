"""An inspection in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lightning_rlhf.cli.inspect.tables import Inspection, Kind, Table
from lightning_rlhf.cli.row_text import marked
from lightning_rlhf.terminal import visible

__all__ = ["print_inspection"]

_COLOURS = {Kind.PROMPT: "dim", Kind.LEARNED: "green", Kind.STOP: "bold magenta", Kind.PLAIN: ""}
_TEXT_COLUMNS = ("token", "response")


def print_inspection(console: Console, inspection: Inspection) -> None:
    """Facts, then texts, then tables.

    Args:
        console: where to.
        inspection: what.
    """
    console.print(Text(visible(inspection.title), "bold"))
    for name, fact in inspection.facts.items():
        console.print(Text(f"{name}: {visible(fact)}"), soft_wrap=True)
    brackets = console.color_system is None
    for text in inspection.texts:
        console.print()
        console.print(Text(visible(text.title), "bold"), soft_wrap=True)
        console.print(marked(text.pieces, _COLOURS, brackets=brackets, lines=True), soft_wrap=True)
    for table in inspection.tables:
        console.print()
        console.print(_rich(table))


def _rich(table: Table) -> RichTable:
    # Text, not markup: tokens may hold anything, square brackets included
    made = RichTable(
        title=Text(visible(table.title), "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,  # columns stand one space apart
        show_edge=False,
    )
    for heading in table.headings:
        if heading in _TEXT_COLUMNS:
            made.add_column(visible(heading), overflow="fold")
        else:
            made.add_column(visible(heading).replace(" ", "\n"), justify="right", no_wrap=True)
    for line, kind in zip(table.lines, table.kinds, strict=True):
        made.add_row(*(Text(visible(cell)) for cell in line), style=_COLOURS[kind])
    return made
