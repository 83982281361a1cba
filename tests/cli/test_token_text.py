from lightning_rlhf.cli.token_text import visible


def test_what_would_act_in_a_terminal_is_shown_as_an_escape():
    assert visible("a\x1b[2J\r\u202eb\u2028") == "a\\x1b[2J\\r\\u202eb\\u2028"


def test_a_line_break_is_shown_and_other_text_stays_as_it_is():
    assert visible("löst\n这是 🙂") == "löst⏎这是 🙂"
