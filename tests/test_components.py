"""The dataset components beside the configs, on rows in the layout of the real ones."""

import gc
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lightning_rlhf.errors import BadRowError, DataError
from lightning_rlhf.records import Demonstration, Message, Ranking

ROOT = Path(__file__).parents[1]


@pytest.fixture
def components(monkeypatch):
    """The module, imported as the working directory's; its classes are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(ROOT))
    yield import_module("configs.components")
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        del sys.modules[name]
    gc.collect()


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return str(path)

    return write


def node(text, *replies, role="prompter", **rank):
    return {"text": text, "role": role, "replies": list(replies), **rank}


def answer(text, *replies, **rank):
    return node(text, *replies, role="assistant", **rank)


def message(name, text, parent=None, role="prompter"):
    return {"user_message_id": name, "parent_message_id": parent, "text": text, "role": role}


def test_rankings_stand_wherever_two_answers_of_a_tree_are_ranked(components, file):
    deeper = node("why?", answer("so", rank=1), answer("hm"), answer("because", rank=0))
    tree = node("hi", answer("yes", deeper, rank=0), answer("no", node("oh", answer("alone", rank=0)), rank=1))
    assert list(components.OasstRankings(file({"prompt": tree}), val_fraction=0.0).load("train")) == [
        Ranking("hi", ("yes", "no"), ((0, 1),)),
        Ranking(
            (Message("user", "hi"), Message("assistant", "yes"), Message("user", "why?")),
            ("so", "hm", "because"),
            ((1, None, 0),),
        ),
    ]


def test_threads_run_from_each_first_message_to_each_last_one(components, file):
    path = file(
        message("b", "hello", "a", "assistant"),  # before its parent
        message("a", "hi"),
        message("c", "hey", "a", "assistant"),
        message("d", "bye", "c"),
        message("lonely", "anyone?"),
    )
    hi, hello, hey = Message("user", "hi"), Message("assistant", "hello"), Message("assistant", "hey")
    threads = list(components.OasstThreads(path, val_fraction=0.0).load("train"))
    assert threads == [Demonstration((hi, hello)), Demonstration((hi, hey, Message("user", "bye")))]


def test_a_thread_without_its_beginning_is_refused(components, file):
    path = file(message("b", "hello", "nobody", "assistant"))
    with pytest.raises(DataError, match="must hold every parent of its messages, got none named 'nobody'"):
        list(components.OasstThreads(path).load("train"))


@pytest.mark.parametrize("row", ['{"text": "no role"', {"text": "no role"}, message("a", 3), "[]"])
def test_a_line_that_is_no_message_is_named(components, file, row):
    with pytest.raises(BadRowError, match=r"rows\.jsonl:2: a row must have a text, a role"):
        list(components.OasstThreads(file(message("a", "hi"), row)).load("train"))


def test_the_first_speaker_is_the_user(components, file):
    path = file({"messages": [{"message": "你知道吗？"}, {"message": "知道。", "attrs": []}], "name": "x"})
    expected = Demonstration((Message("user", "你知道吗？"), Message("assistant", "知道。")))
    assert list(components.KdConvDialogues(path, val_fraction=0.0).load("train")) == [expected]


def comparison(first, second, *verdicts, **fields):
    verdicts = {f"annotator{number}": verdict for number, verdict in enumerate(verdicts, start=1)}
    return {"instruction": "Add.", "input": "", "response1": first, "response2": second, **verdicts, **fields}


def test_verdicts_of_three_annotators_become_places(components, file):
    path = file(comparison("3", "", 0, 1, 2, input="1 + 2"))
    expected = Ranking("Add.\n1 + 2", ("3", ""), ((0, 0), (0, 1), (1, 0)))
    assert list(components.PandaLMRankings(path, val_fraction=0.0).load("train")) == [expected]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (comparison(True, "3", 1, 1, 1), "a response must be a string, got True."),
        (comparison("2", "3", 1, 1, 3), "fields that PandaLMRankings reads, got KeyError: 3."),
        (comparison("2", "3", 1, 1), "fields that PandaLMRankings reads, got KeyError: 'annotator3'."),
        ("[]", "fields that PandaLMRankings reads, got TypeError"),
        ("{", "a line must be JSON"),
    ],
)
def test_a_bad_row_is_one_row_told_of_once_with_its_line(components, file, row, what):
    source = components.PandaLMRankings(file(comparison("2", "3", 1, 1, 1), row, comparison("4", "5", 2, 2, 2)))
    found = [record for split in ("train", "validation", "test") for record in source.load(split)]
    bad = [record for record in found if isinstance(record, BadRowError)]
    assert len(found) == 3
    assert len(bad) == 1
    assert "rows.jsonl:2: " in str(bad[0])
    assert what in str(bad[0])


@pytest.mark.parametrize("name", ["OasstRankings", "OasstThreads", "KdConvDialogues", "PandaLMRankings"])
def test_a_file_that_is_not_there_is_named(components, name):
    with pytest.raises(DataError, match=r"a data file must exist, got 'nowhere\.jsonl'"):
        list(getattr(components, name)("nowhere.jsonl").load("train"))


def test_a_share_of_the_dialogues_is_held_out_whole(components, file):
    rows = [{"messages": [{"message": f"question {n}"}, {"message": "answer"}]} for n in range(200)]
    source = components.KdConvDialogues(file(*rows), val_fraction=0.3)
    train, validation, test = (list(source.load(split)) for split in ("train", "validation", "test"))
    assert len(train) + len(validation) == 200
    assert 40 < len(validation) < 80
    assert not test
