import io

from rich.console import Console

from lightning_rlhf.cli.inspect.prompts import _HEADINGS
from lightning_rlhf.cli.inspect.tables import Inspection, Kind, Table
from lightning_rlhf.cli.inspect.terminal import print_inspection


def shown(width):
    line = ["123", "5678", "token", "1", "-12.346", "-12.346", "0.0012", "-0.1234", "-0.1234", "-0.1234", "-0.1234"]
    file = io.StringIO()
    table = Table("response", _HEADINGS, [line], [Kind.LEARNED])
    print_inspection(Console(file=file, width=width), Inspection("row", {"fact": "[red]"}, tables=[table]))
    return line, file.getvalue()


def test_no_number_of_a_response_is_cut_in_a_terminal_of_eighty_columns():
    line, out = shown(80)
    assert out.splitlines()[-1].split() == line
    assert max(map(len, out.splitlines())) <= 80


def test_markup_in_a_fact_is_text():
    assert "fact: [red]" in shown(80)[1]
