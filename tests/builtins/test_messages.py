import pytest

from lightning_rlhf.builtins.rows import RowReader, record_from_row
from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking

USER, ANSWER, SYSTEM = Message("user", "hi"), Message("assistant", "hello"), Message("system", "be kind")
CALL = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}


def user(content="hi", **fields):
    return {"role": "user", "content": content, **fields}


def assistant(content="hello", **fields):
    return {"role": "assistant", "content": content, **fields}


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("hi", "hello"), ([user()], [assistant()]), ([user()], assistant()), ([user()], [user(), assistant()])],
)
def test_prompt_and_completion_are_a_demonstration(prompt, completion):
    assert record_from_row({"prompt": prompt, "completion": completion}) == Demonstration((USER, ANSWER))


def test_a_completion_of_several_turns_keeps_all_of_them():
    turns = [assistant("call"), {"role": "tool", "content": "sunny"}, assistant()]
    record = record_from_row({"prompt": "hi", "completion": turns})
    assert [turn.role for turn in record.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": "hi", "completion": "a", "response": "b"}, "got both"),
        ({"prompt": "hi", "completion": "a", "label": False}, "must not have the label false"),
        ({"prompt": "hi", "completion": [user()]}, "must come from the assistant"),
        ({"prompt": "hi", "completion": ""}, "must not be empty"),
    ],
)
def test_a_completion_that_is_not_to_be_imitated_is_refused(row, rule):
    with pytest.raises(RecordError, match=rule):
        record_from_row(row)


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"prompt": "hi", "response": "hello"}, Demonstration((SYSTEM, USER, ANSWER))),
        ({"messages": [user(), assistant()]}, Demonstration((SYSTEM, USER, ANSWER))),
        ({"messages": [{"role": "developer", "content": "be kind"}, user(), assistant()]},) * 2,
        ({"prompt": "hi"}, Prompt((SYSTEM, USER), {"system": "be kind"})),
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, Ranking((SYSTEM, USER), ("a", "b"), (0, 1))),
        ({"prompt": "hi", "responses": ["a", "b"], "ranks": [0, 1]}, Ranking((SYSTEM, USER), ("a", "b"), (0, 1))),
    ],
)
def test_a_system_field_is_the_system_message_of_every_kind(row, record):
    expected = Demonstration((SYSTEM, USER, ANSWER)) if isinstance(record, dict) else record
    assert record_from_row({**row, "system": "be kind"}) == expected
    for nothing in ("", None):
        assert "system" not in [turn.role for turn in _turns(record_from_row({"prompt": "hi", "system": nothing}))]


def test_two_system_messages_that_differ_are_refused():
    row = {"system": "be brief", "messages": [{"role": "system", "content": "be kind"}, user(), assistant()]}
    with pytest.raises(RecordError, match="must have one system message"):
        record_from_row(row)


def _turns(record):
    return record.prompt


def test_the_weight_of_a_message_says_whether_it_is_learned():
    turns = [user(weight=0), assistant(weight=0), user(), assistant(weight=1), user(), assistant(weight=None)]
    record = record_from_row({"messages": turns})
    assert [turn.learned for turn in record.messages] == [True, False, True, True, True, True]


@pytest.mark.parametrize(
    ("turns", "rule"),
    [
        ([user(), assistant(weight=0.5)], "must be 0 or 1, got 0.5"),
        ([user(weight=1), assistant()], "must be 0 unless it is the assistant's"),
        ([user(), assistant(weight=0)], "the weight 0 for all"),
        ([user(), assistant(train=False)], "got the field 'train'"),
        ([user(), assistant(loss_mask=[0, 1])], "got the field 'loss_mask'"),
        ([user(), assistant(None, tool_calls=[CALL]), assistant()], "must not have the field 'tool_calls'"),
        ([user(), {"role": "assistant", "tool_calls": [CALL]}], "must not have the field 'tool_calls'"),
        ([user(), assistant(reasoning_content="hm")], "must not have the field 'reasoning_content'"),
        (
            [user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant()],
            "content must be text, got .*image_url",
        ),
    ],
)
def test_what_a_message_says_that_is_not_used_is_refused_by_name(turns, rule):
    with pytest.raises(RecordError, match=rule):
        record_from_row({"messages": turns})


def test_a_response_that_is_not_to_be_learned_is_not_ranked():
    with pytest.raises(RecordError, match="must not have the weight 0"):
        record_from_row({"prompt": "hi", "chosen": assistant(weight=0), "rejected": "b"})


@pytest.mark.parametrize("row", [{"prompt": "hi"}, {"prompt": "hi", "response": "a"}, {"chosen": "a", "rejected": "b"}])
def test_tools_are_refused_by_name_unless_there_are_none(row):
    row = {"prompt": "hi", **row}
    with pytest.raises(RecordError, match=r"must not have the field 'tools'.*columns"):
        record_from_row({**row, "tools": [CALL]})
    for nothing in (None, [], "", "[]"):
        record_from_row({**row, "tools": nothing})


def test_parts_of_text_are_one_text_and_empty_fields_say_nothing():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    turns = [user(tool_calls=None), assistant(parts, tool_calls=[], reasoning_content="", refusal=None)]
    assert record_from_row({"messages": turns}) == Demonstration((USER, ANSWER))


def test_a_margin_stands_beside_chosen_and_rejected():
    row = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    assert record_from_row({**row, "margin": 1.5}) == Ranking((USER,), ("a", "b"), (0, 1), margin=1.5)
    assert RowReader(text_cells=True).record({**row, "margin": "0.5"}).margin == 0.5
    for value in ("wide", -1, float("nan")):
        with pytest.raises(RecordError, match="a margin must be"):
            record_from_row({**row, "margin": value})
    with pytest.raises(RecordError, match="must stand beside chosen and rejected"):
        record_from_row({"prompt": "hi", "responses": ["a", "b"], "ranks": [0, 1], "margin": 1})


def test_fields_that_nothing_reads_are_counted_and_columns_are_read():
    reader = RowReader()
    reader.record({"prompt": "hi", "response": "a", "input": "lost", "id": 1, "system": "s", "note": None})
    reader.record({"prompt": "hi", "response": "a", "id": 2})
    assert reader.unread == {"input": 1, "id": 2}
    prompts = RowReader()
    prompts.record({"prompt": "hi", "id": 1})
    assert not prompts.unread
