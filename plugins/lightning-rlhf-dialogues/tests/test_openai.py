import json

import pytest

from lightning_rlhf.records import Message, Ranking

FUNCTION = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "東京"}'}}
CALLED = '{"name": "weather", "arguments": {"city": "東京"}}'


def user(content="Tokyo?"):
    return {"role": "user", "content": content}


def assistant(content, **fields):
    return {"role": "assistant", "content": content, **fields}


def test_a_call_and_the_answer_are_learned_and_what_the_tool_says_is_not(load, learned):
    said = [
        user(),
        assistant(None, tool_calls=[CALL]),
        {"role": "tool", "tool_call_id": "1", "content": "21"},
        assistant("21 degrees."),
    ]
    (record,) = load("openai_messages", [{"messages": said}])
    assert [message.role for message in record.messages] == ["user", "assistant", "tool", "assistant"]
    assert record.messages[2].content == "21"
    for template in ("vicuna", "hh", "chatglm"):
        assert learned(record, template) == [f"{CALLED}</s>", "21 degrees.</s>"]


def test_a_turn_with_the_weight_0_is_read_and_not_learned(load):
    said = [user(), assistant("wrong", weight=0), user(), assistant("right", weight=1)]
    (record,) = load("openai_messages", [{"messages": said}])
    assert [turn.content for turn in record.messages if turn.learned and turn.role == "assistant"] == ["right"]


def test_several_calls_are_lines_below_the_content(load, learned):
    other = {"function": {"name": "time", "arguments": ""}}
    (record,) = load("openai_messages", [{"messages": [user(), assistant("I look.", tool_calls=[CALL, other])]}])
    assert learned(record) == [f'I look.\n{CALLED}\n{{"name": "time", "arguments": {{}}}}</s>']


def test_parts_are_joined_to_one_text(load, learned):
    parts = [{"type": "text", "text": "One "}, {"type": "text", "text": "two."}]
    (record,) = load("openai_messages", [{"messages": [user(parts), assistant([{"type": "text", "text": "Three."}])]}])
    assert record.messages[0] == Message("user", "One two.")
    assert learned(record) == ["Three.</s>"]


def test_a_refusal_is_an_answer(load, learned):
    part = [{"type": "refusal", "refusal": "I will not."}]
    records = load(
        "openai_messages",
        [{"messages": [user(), assistant(part)]}, {"messages": [user(), assistant(None, refusal="No.")]}],
    )
    assert [learned(record) for record in records] == [["I will not.</s>"], ["No.</s>"]]


def test_the_system_message_ends_with_the_tools(load):
    said = [{"role": "developer", "content": "Be kind."}, user(), assistant("Hi.")]
    tools = [{"type": "function", "function": FUNCTION}]
    (record,) = load("openai_messages", [{"messages": said, "tools": tools}])
    assert record.messages[0] == Message("system", f"Be kind.\n\nYou can call these tools:\n{json.dumps(tools[0])}")
    (older,) = load("openai_messages", [{"messages": said[1:], "functions": [FUNCTION]}])
    assert older.messages[0] == Message("system", f"You can call these tools:\n{json.dumps(FUNCTION)}")


def test_the_older_function_calls_are_read_alike(load, learned):
    called = assistant(None, function_call=CALL["function"])
    said = [user(), called, {"role": "function", "name": "weather", "content": "21"}, assistant("21.")]
    (record,) = load("openai_messages", [{"messages": said}])
    assert learned(record) == [f"{CALLED}</s>", "21.</s>"]


def test_preferred_and_non_preferred_output_are_a_ranking(load, learned):
    row = {
        "input": {"messages": [user("Hi")], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [assistant("Hello!")],
        "non_preferred_output": [assistant("No.")],
    }
    (record,) = load("openai_messages", [row])
    assert record == Ranking("Hi", ("Hello!", "No."), ((0, 1),))
    assert learned(record) == ["Hello!</s>", "No.</s>"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"text": "a"}, "must have the field 'messages'"),
        ({"messages": []}, "must not be empty"),
        ({"messages": [user()]}, "at least one assistant message"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "got 'bot'"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "a"}}]), assistant("b")]},
            "got the type 'image_url'",
        ),
        ({"messages": [user(3), assistant("b")]}, "the content of a message must be a list"),
        ({"messages": [user(), assistant("b", weight=0)]}, "the weight 0 for all"),
        ({"messages": [user(), assistant("b", weight=0.5)]}, "weight of a message must be 0 or 1"),
        (
            {"messages": [user(), assistant(None, tool_calls=[{"function": {"name": "a", "arguments": "{"}}])]},
            "arguments of a tool call",
        ),
        (
            {"messages": [user(), assistant(None, tool_calls=[{"function": {"arguments": "{}"}}])]},
            "must have the field 'name'",
        ),
        ({"messages": [user(), assistant(None, tool_calls=["a"])]}, "a tool call must be an object"),
        ({"messages": [{**user(), "tool_calls": [CALL]}, assistant("b")]}, "must come from the assistant"),
        (
            {"input": {"messages": [user()]}, "preferred_output": [assistant("a")]},
            "'non_preferred_output' must be a list",
        ),
        (
            {"input": {"messages": [user()]}, "preferred_output": [], "non_preferred_output": []},
            "one message of the assistant",
        ),
        (
            {"input": {"messages": [assistant("a")]}, "preferred_output": [], "non_preferred_output": []},
            "must end before",
        ),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("openai_messages", [row])
    assert rule in bad.rule
