"""What a model or a file wrote, on a page, in a logger and in a terminal."""

import html.parser
import re
from io import StringIO

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from lightning_rlhf.callbacks import Sample
from lightning_rlhf.callbacks.sample_table import _markdown
from lightning_rlhf.cli.demo import report
from lightning_rlhf.cli.inspect.page import write_page
from lightning_rlhf.cli.inspect.tables import Inspection, Kind, RowText, Table
from lightning_rlhf.cli.inspect.terminal import print_inspection
from lightning_rlhf.cli.row_text import Piece

HARMFUL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></table><svg/onload=alert(1)>",
    '"><a href="javascript:alert(1)">x</a>',
    "' onmouseover='alert(1)",
    "<iframe srcdoc='&lt;script&gt;alert(1)&lt;/script&gt;'></iframe>",
    "<!-- --><style>@import 'https://nowhere.invalid'</style>",
    "$summary ${tables} $$",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "\ufeff\u202e<script>",
]
ALLOWED = re.compile("b|body|dd|dl|dt|h1|h2|head|html|img|meta|p|pre|span|style|table|t[dhr]|thead|title")


class Reader(html.parser.HTMLParser):
    """The tags of a page, its attributes, and the text that one sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def read(path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert all(ALLOWED.fullmatch(tag) for tag in reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        assert not (value or "").startswith("javascript")
        assert name not in ("href", "srcdoc")
        assert name != "src" or (value or "").startswith("data:image/png")
    return reader


@pytest.mark.parametrize("text", HARMFUL)
def test_the_demos_page_shows_it_and_does_nothing(tmp_path, text):
    table = report.Table(text, (text,), [(text,)])
    figure = Figure(figsize=(1, 1))
    report.write_report(tmp_path / "r.html", summary=text, tables=[table], commands=[text], figure=figure)
    page = read(tmp_path / "r.html")
    assert page.text.count(text.replace("\x00", "\ufffd")) == 5 or page.text.count(text) == 5


@pytest.mark.parametrize("text", HARMFUL)
def test_the_page_of_inspect_shows_it_and_does_nothing(tmp_path, text):
    table = Table(text, ("token", text), [(text, text)], [Kind.PLAIN])
    row = RowText(text, [Piece(text, Kind.PLAIN, 1)])
    write_page(tmp_path / "r.html", Inspection(text, {text: text}, [row], [table]))
    visible = read(tmp_path / "r.html").text
    assert "\x00" not in visible
    assert "\u202e" not in visible
    if text.isprintable():
        assert visible.count(text) == 10  # the title stands twice


@pytest.mark.parametrize("module", ["demo", "inspect"])
def test_no_page_could_run_a_script_or_load_anything(tmp_path, module):
    if module == "demo":
        report.write_report(tmp_path / "r.html", summary="", tables=[], commands=[], figure=Figure(figsize=(1, 1)))
    else:
        write_page(tmp_path / "r.html", Inspection("", {}))
    contents = [value for name, value in read(tmp_path / "r.html").attributes if name == "content"]
    assert any((content or "").startswith("default-src 'none'; style-src 'unsafe-inline'") for content in contents)


@pytest.mark.parametrize(
    "text", [*HARMFUL, "![x](https://nowhere.invalid/x.png)", "[x](javascript:alert(1))", "a|b\n`c`"]
)
def test_a_logger_gets_text_and_no_markup(text):
    made = _markdown([Sample(text, text, {text: 1.0}, 0.5, text)])
    assert len(made.splitlines()) == 3
    assert made.splitlines()[2].count("|") == 6
    for sign in "<>[]()`!":
        assert sign not in made.replace("<br>", "")


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x1b]0;title\x07", "\x9b31m", "\r overwritten", "\u202e turned", "[bold]x[/]"]
)
def test_a_terminal_is_not_driven_by_it(text):
    screen = StringIO()
    row = RowText(text, [Piece(text, Kind.PLAIN, 1)])
    table = Table(text, ("token",), [(text,)], [Kind.PLAIN])
    print_inspection(Console(file=screen, width=200), Inspection(text, {"fact": text}, [row], [table]))
    for character in "\x1b\x9b\x07\r\u202e":
        assert character not in screen.getvalue()
    assert "[bold]" not in text or screen.getvalue().count("[bold]x[/]") == 6
