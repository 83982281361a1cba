from pathlib import Path

import pytest

from lightning_rlhf.errors import BadRowError, ConfigError, DataError
from lightning_rlhf.records import Message
from lightning_rlhf.registry import create

CORPUS = """categories:
- small talk
conversations:
- - Hello
  - Hi!
  - How are you?
  - 42
- - Who is there?
  - 'I am: the assistant.'
- broken line
  - no list
- - alone
"""


def read(path, **init_args):
    return list(create("dataset", "chatterbot", path=path, **init_args).load("train"))


@pytest.mark.parametrize("name", ["talk.yml", "talk.yaml.gz"])
def test_two_speakers_talk_in_turn_and_the_second_one_is_learned(write, learned, name):
    first, second, broken, alone = read(write(name, CORPUS))
    assert first.messages[2:] == (Message("user", "How are you?"), Message("assistant", "42"))
    assert learned(first) == ["Hi!</s>", "42</s>"]
    assert learned(second) == ["I am: the assistant.</s>"]
    assert str(broken).endswith(f"{name}:10: a conversation must be a list of lines, got 'broken line - no list'.")
    assert (alone.line, isinstance(alone, BadRowError)) == (12, True)


def test_later_lines_can_be_other_answers_to_the_first(write, learned):
    records = read(write("emotion.yml", CORPUS))[:4]
    assert [record.messages[0].content for record in records] == ["Hello", "Hello", "Hello", "Who is there?"]
    assert [learned(record) for record in records] == [
        ["Hi!</s>"],
        ["How are you?</s>"],
        ["42</s>"],
        ["I am: the assistant.</s>"],
    ]
    assert len(read(write("emotion.yml", CORPUS), alternatives=[])) == 4


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("conversations: [", r":\d: the file must be YAML"),
        ("- a\n", "a list of conversations"),
        ("", "a list of conversations"),
    ],
)
def test_what_is_no_corpus_is_a_clear_error(write, text, rule):
    with pytest.raises(DataError, match=rule):
        read(write("a.yml", text))


def test_the_installed_package_is_read_by_language_and_category(learned):
    import chatterbot_corpus

    source = create("dataset", "chatterbot", categories=["greetings"])
    records = list(source.load("train"))
    file = Path(chatterbot_corpus.__file__).parent / "data/english/greetings.yml"
    assert len(records) == file.read_text(encoding="utf-8").count("- - ")
    assert learned(records[0]) == ["Hi</s>"]
    chinese = list(create("dataset", "chatterbot", language="chinese").load("train"))
    assert len(chinese) > 400
    assert not any(isinstance(record, BadRowError) for record in chinese)


def test_the_bad_rows_of_the_installed_package_are_named():
    bad = [r for r in create("dataset", "chatterbot").load("train") if isinstance(r, BadRowError)]
    assert [(Path(row.origin).name, "In a game of bingo" in row.rule) for row in bad] == [("trivia.yml", True)]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"language": "klingon"}, "must be one of bengali, chinese.*, got 'klingon'"),
        ({"categories": ["ai", "nonsense"]}, "among ai, .*, got 'nonsense'"),
        ({"path": "a.yml", "categories": ["ai"]}, "categories must be null"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        create("dataset", "chatterbot", **arguments)
