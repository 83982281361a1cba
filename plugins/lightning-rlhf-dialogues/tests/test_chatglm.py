import pytest

from lightning_rlhf.records import Message
from lightning_rlhf.registry import create

TURNS = (
    Message("user", "你好"),
    Message("assistant", "你好！"),
    Message("user", "再见"),
    Message("assistant", "再见！"),
)
ROUNDS = "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：再见\n答："
ROWS = {
    "history": {"prompt": "再见", "response": "再见！", "history": [["你好", "你好！"]]},
    "written out": {"prompt": ROUNDS, "response": "再见！"},
    "whole": {"text": f"{ROUNDS}再见！\n"},
    "ChatGLM2": {
        "prompt": "[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：再见\n\n答：",
        "response": "再见！",
    },
    "ChatGLM3": {
        "prompt": "再见",
        "response": "再见！",
        "history": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}],
    },
}


MARKED = {
    "answer": {"prompt": ROUNDS, "response": "答：再见！"},
    "question": {"prompt": "问：再见\n答：", "response": "再见！", "history": [["你好", "你好！"]]},
    "history": {"prompt": "再见", "response": "再见！", "history": [["[Round 0]\n问：你好", "答:你好！"]]},
    "all, and blanks": {
        "prompt": " \n问: 再见\n\n答：\n",
        "response": "\n答： 再见！",
        "history": [["问：你好", "答：你好！"]],
    },
    "blanks before the rounds": {"prompt": f" {ROUNDS}", "response": "再见！"},
}


@pytest.mark.parametrize("row", MARKED.values(), ids=MARKED)
def test_markers_that_a_row_has_already_are_not_written_twice(load, learned, row):
    (record,) = load("chatglm", [row])
    assert record.messages == TURNS
    assert learned(record, "chatglm") == ["你好！</s>", "再见！</s>"]


def test_a_turn_without_markers_stays_as_it_is(load):
    (record,) = load("chatglm", [{"prompt": " 什么是问：和答： ", "response": " 两个标记，如 问：\n"}])
    assert [turn.content for turn in record.messages] == [" 什么是问：和答： ", " 两个标记，如 问：\n"]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_answer_is_learned_however_the_rounds_are_written(load, learned, row):
    (record,) = load("chatglm", [row])
    assert record.messages == TURNS
    assert learned(record, "chatglm") == ["你好！</s>", "再见！</s>"]


def test_the_template_writes_the_rounds_again():
    rendered = create("prompt_template", "chatglm").render(TURNS)
    assert "".join(segment.text for segment in rendered) == f"{ROUNDS}再见！"
    asked = create("prompt_template", "chatglm", first_round=1, line_break="\n\n").generation_prompt(TURNS[:3])
    assert "".join(segment.text for segment in asked) == ROWS["ChatGLM2"]["prompt"]


def test_a_question_without_rounds_before_it_is_a_dialogue(load, learned):
    records = load(
        "chatglm", [{"prompt": "你好", "response": "你好！", "history": history} for history in ([], None, "")]
    )
    assert [record.messages for record in records] == [TURNS[:2]] * 3


def test_columns_may_have_other_names(load, learned):
    row = {"content": "类型#裤", "summary": "一条裤子。"}
    (record,) = load("chatglm", [row], prompt_column="content", response_column="summary")
    assert learned(record, "chatglm") == ["一条裤子。</s>"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": "a"}, "must have the field 'response'"),
        ({"prompt": "a", "response": " "}, "must not be empty"),
        ({"prompt": "a", "response": "b", "history": [["c", None]]}, "a question and its answer"),
        ({"prompt": "a", "response": "b", "history": {"a": 1}}, "history must be a list"),
        ({"prompt": f"{ROUNDS}再见！", "response": "b"}, "must end before the last answer"),
        ({"text": "hi"}, "must begin with '[Round 0]'"),
        ({"text": "[Round 0]\n问：a\n[Round 1]\n问：b\n答：c"}, "none in [Round 0]"),
        ({"text": "[Round 0]\n问：a\n答：b\n[Round 2]\n问：b\n答：c"}, "numbered one after the other, got [0, 2]"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("chatglm", [row])
    assert rule in bad.rule
