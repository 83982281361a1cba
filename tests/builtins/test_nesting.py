import json

import pytest

from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.errors import BadRowError, ConfigError
from lightning_rlhf.records import Demonstration, Message, Prompt


def paragraph(number, *questions):
    qas = [{"id": f"q{place}", "question": text, "answers": [{"text": "yes"}]} for place, text in enumerate(questions)]
    return {"id": f"p{number}", "context": f"context {number}", "qas": qas}


ARTICLES = [
    {"title": "cats", "paragraphs": [paragraph(0, "a?", "b?"), paragraph(1, "c?")]},
    {"title": "dogs", "paragraphs": [paragraph(2), paragraph(3, "d?")]},
]
COLUMNS = {"prompt": "question", "response": "answers.0.text"}


def records(path, rows, **options):
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return list(FileSource(str(path), **options).load("train"))


def test_every_question_of_every_paragraph_is_a_row_with_the_fields_of_the_levels_above(tmp_path):
    found = records(tmp_path / "a.jsonl", ARTICLES, explode="paragraphs.qas", columns={"prompt": "question"})
    assert [record.prompt[0].content for record in found] == ["a?", "b?", "c?", "d?"]
    assert dict(found[3].columns) == {
        "title": "dogs",
        "paragraphs.id": "p3",
        "context": "context 3",
        "id": "q0",
        "answers": [{"text": "yes"}],
    }


def test_an_inner_field_hides_an_outer_one_which_its_path_still_names(tmp_path):
    rows = [{"id": "outer", "prompts": [{"prompt": "hi", "id": "inner"}]}]
    columns = {"own": "id", "above": "row.id"}
    assert records(tmp_path / "a.jsonl", rows, explode="prompts", columns=columns) == [
        Prompt("hi", {"own": "inner", "above": "outer"})
    ]


@pytest.mark.parametrize("text_cells", [False, True])
def test_members_that_are_no_objects_keep_the_name_of_their_list(tmp_path, text_cells):
    questions = ["a?", "b?"]
    rows = f'level,questions\n1,"{json.dumps(questions).replace(chr(34), chr(34) * 2)}"\n'
    found = (
        records(tmp_path / "a.csv", rows, explode="questions", columns={"prompt": "questions"})
        if text_cells
        else records(
            tmp_path / "a.jsonl",
            [{"level": "1", "questions": questions}],
            explode="questions",
            columns={"prompt": "questions"},
        )
    )
    assert found == [Prompt("a?", {"level": "1"}), Prompt("b?", {"level": "1"})]


def test_a_json_file_of_one_object_is_taken_apart_too(tmp_path):
    whole = json.dumps({"version": "1", "data": ARTICLES})
    found = records(tmp_path / "a.json", whole, explode="data.paragraphs.qas", columns=COLUMNS)
    assert found[0] == Demonstration((Message("user", "a?"), Message("assistant", "yes")))
    assert len(found) == 4


def test_an_object_on_the_way_is_gone_through(tmp_path):
    rows = [{"body": {"lang": "en", "turns": [{"prompt": "hi"}]}}]
    assert records(tmp_path / "a.jsonl", rows, explode="body.turns") == [Prompt("hi", {"lang": "en"})]


def test_a_bad_member_spoils_itself_only_and_names_its_line_and_its_place(tmp_path):
    bad = [
        {"title": "no list"},
        {"paragraphs": [paragraph(0, "a?", None), {"qas": "text"}, "text", {"qas": None}, paragraph(1, "b?")]},
    ]
    path = tmp_path / "a.jsonl"
    found = records(path, bad, explode="paragraphs.qas", columns=COLUMNS, kind="demonstration")
    assert [type(record) for record in found].count(Demonstration) == 2
    rules = [str(record).removeprefix(f"{path}:") for record in found if isinstance(record, BadRowError)]
    assert rules == [
        "1: a row must have the list 'paragraphs' (explode), got the fields ['title'].",
        "2: at paragraphs.0.qas.1: a demonstration row must have the field 'prompt', got null.",
        "2: at paragraphs.1: the field 'qas' must be a list (explode), got 'text'.",
        "2: at paragraphs.2: a member of 'paragraphs' must be an object, got 'text'.",
        "2: at paragraphs.3: a row must have the list 'qas' (explode), got null.",
    ]


@pytest.mark.parametrize("explode", ["", "a..b", "a."])
def test_a_path_that_names_no_field_is_refused_at_once(explode):
    with pytest.raises(ConfigError, match=r"explode must be a path into a row, such as paragraphs\.qas"):
        FileSource("a.jsonl", explode=explode)
