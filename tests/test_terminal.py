import pytest

from lightning_rlhf.terminal import escaped, visible

HARMFUL = ["\x1b[2J", "\x9b31m", "\r", "\x07", "\x00", "\u202e", "\u2066", "\u200f", "\ufeff", "\u2028", "\ud800"]


@pytest.mark.parametrize("text", HARMFUL)
def test_what_acts_on_a_terminal_becomes_an_escape(text):
    for shown in (escaped(f"a{text}b"), visible(f"a{text}b")):
        assert shown == "a" + ascii(text)[1:-1] + "b"
        shown.encode()


@pytest.mark.parametrize(
    "text", ["评分：好。", "naïve", "👍🏽 👨\u200d👩\u200d👧", "می\u200cخواهم", "one\n\ttwo", "x < y & z"]
)
def test_what_people_write_stays(text):
    assert escaped(text) == text


def test_tokens_are_shown_in_one_line():
    assert visible("two\n\u200d\t") == "two⏎\\u200d\\t"
