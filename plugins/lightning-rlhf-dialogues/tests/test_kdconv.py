import pytest

from lightning_rlhf.records import Message
from lightning_rlhf.registry import create

ATTRIBUTES = [{"name": "长江", "attrname": "长度", "attrvalue": "6300公里"}]
ROW = {
    "messages": [
        {"message": "你知道长江吗？", "attrs": ATTRIBUTES},
        {"message": "知道，很长。", "attrs": ATTRIBUTES * 2},
        {"message": "多长？"},
        {"message": "六千多公里。"},
        {"message": "谢谢。"},
    ],
    "name": "长江",
}


def test_speakers_alternate_and_the_second_one_is_learned(load, learned):
    (record,) = load("kdconv", [ROW], "a.json")
    assert [message.role for message in record.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert learned(record, "chatglm") == ["知道，很长。</s>", "六千多公里。</s>"]


def test_knowledge_comes_before_the_turn_it_was_used_in_and_is_not_learned(load, learned):
    (record,) = load("kdconv", [ROW], knowledge=True)
    assert record.messages[1] == Message("tool", "长江，长度：6300公里\n长江，长度：6300公里")
    assert [message.role for message in record.messages] == ["user", "tool", "assistant", "user", "assistant", "user"]
    assert learned(record, "chatglm") == ["知道，很长。</s>", "六千多公里。</s>"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"name": "a"}, "must have the field 'messages'"),
        ({"messages": [{"message": "a"}]}, "at least one assistant message"),
        ({"messages": ["a", "b"]}, "a turn must be an object"),
        ({"messages": [{"message": "a"}, {"attrs": []}]}, "must have the field 'message'"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("kdconv", [row])
    assert rule in bad.rule


@pytest.mark.real
@pytest.mark.parametrize(("domain", "number"), [("film", 86), ("music", 73), ("travel", 73)])
def test_in_real_dialogues_every_second_turn_is_learned(real, real_rows, learned, domain, number):
    name = f"dialogue/kdconv_{domain}.jsonl.gz"
    path, rows = real / name, real_rows(name)
    for knowledge in (False, True):
        records = list(create("dataset", "kdconv", path=str(path), knowledge=knowledge).load("train"))
        assert len(records) == len(rows) == number
        for record, row in zip(records, rows, strict=True):
            assert learned(record, "chatglm") == [f"{turn['message']}</s>" for turn in row["messages"][1::2]]
            assert any(message.role == "tool" for message in record.messages) <= knowledge
