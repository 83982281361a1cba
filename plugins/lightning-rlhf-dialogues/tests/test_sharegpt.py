import json

import pytest

from lightning_rlhf.records import Message, Ranking
from lightning_rlhf.registry import create


def turns(*pairs):
    return [{"from": speaker, "value": text} for speaker, text in pairs]


def test_every_turn_of_the_assistant_is_learned_and_nothing_else(load, learned):
    row = {
        "conversations": turns(
            ("system", "Rules."), ("human", "Hi"), ("gpt", "Hello!"), ("human", "Bye"), ("gpt", "See you.")
        )
    }
    (record,) = load("sharegpt", [row], "a.json")
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "user", "assistant"]
    for template in ("vicuna", "human_assistant", "chatglm", "alpaca"):
        assert learned(record, template) == ["Hello!</s>", "See you.</s>"]


@pytest.mark.parametrize("speaker", ["gpt", "chatgpt", "bing", "bard", "assistant", "model", "GPT"])
def test_every_name_of_an_assistant_is_learned(load, learned, speaker):
    (record,) = load("sharegpt", [{"conversations": turns(("user", "Hi"), (speaker, "Hello!"))}])
    assert learned(record) == ["Hello!</s>"]


def test_a_call_is_learned_and_what_the_tool_says_is_not(load, learned):
    call = '{"name": "weather", "arguments": {"city": "Rome"}}'
    said = turns(
        ("human", "Rome?"), ("function_call", call), ("observation", "sunny"), ("tool", "hot"), ("gpt", "Sunny.")
    )
    (record,) = load("sharegpt", [{"conversations": said, "tools": "[]"}])
    assert [message.role for message in record.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert learned(record, "vicuna") == [f"{call}</s>", "Sunny.</s>"]


def test_tools_and_system_make_up_the_system_message(load):
    tools = [{"name": "weather"}, {"name": "天气"}]
    row = {"conversations": turns(("human", "Hi"), ("gpt", "Hello!")), "system": "Be kind.", "tools": json.dumps(tools)}
    expected = 'Be kind.\n\nYou can call these tools:\n{"name": "weather"}\n{"name": "天气"}'
    assert load("sharegpt", [row])[0].messages[0] == Message("system", expected)
    assert load("sharegpt", [{**row, "tools": tools}])[0].messages[0].content == expected
    (bare,) = load("sharegpt", [{**row, "system": None}], tools_preamble="")
    assert bare.messages[0].content == '{"name": "weather"}\n{"name": "天气"}'


@pytest.mark.parametrize("name", ["items", "conversation", "messages"])
def test_other_names_of_the_turns_are_read(load, name):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert load("sharegpt", [{name: said}])[0].messages == (Message("user", "Hi"), Message("assistant", "Hello!"))


@pytest.mark.parametrize("answer", [lambda text: text, lambda text: {"from": "gpt", "value": text}])
def test_chosen_and_rejected_are_a_ranking(load, learned, answer):
    row = {"conversations": turns(("human", "Hi")), "chosen": answer("Hello!"), "rejected": answer("No.")}
    (record,) = load("sharegpt", [row])
    assert record == Ranking("Hi", ("Hello!", "No."), ((0, 1),))
    assert learned(record, "vicuna") == ["Hello!</s>", "No.</s>"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"text": "hi"}, "must have the field 'conversations', got the fields 'text'"),
        ({"conversations": []}, "at least one turn"),
        ({"conversations": turns(("human", "Hi"))}, "at least one assistant message"),
        ({"conversations": turns(("narrator", "Hi"))}, "got 'narrator'"),
        ({"conversations": [{"from": "gpt"}]}, "must have the field 'value'"),
        ({"conversations": turns(("gpt", None))}, "field 'value' must be a string"),
        ({"conversations": "hi"}, "must be a list"),
        ({"conversations": turns(("human", "Hi")), "chosen": "a"}, "must have the field 'rejected'"),
        ({"conversations": turns(("human", "a"), ("gpt", "b")), "chosen": "a", "rejected": "b"}, "must end before"),
        (
            {"conversations": turns(("human", "a")), "chosen": {"from": "human", "value": "b"}, "rejected": "c"},
            "a turn of the user",
        ),
        ({"conversations": turns(("human", "a"), ("gpt", "b")), "tools": "[{"}, "field 'tools' must hold JSON"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("sharegpt", [row])
    assert rule in bad.rule


@pytest.mark.real
@pytest.mark.parametrize("language", ["en", "zh"])
def test_real_dialogues_with_tools_teach_answers_and_calls(real, real_rows, learned, language):
    name = f"dialogue/glaive_toolcall_{language}_demo.jsonl.gz"
    path, rows = real / name, real_rows(name)
    records = list(create("dataset", "sharegpt", path=str(path)).load("train"))
    assert len(records) == len(rows) == 132
    taught = [
        [f"{turn['value']}</s>" for turn in row["conversations"] if turn["from"] in ("gpt", "function_call")]
        for row in rows
    ]
    assert any(turn["from"] == "observation" for row in rows for turn in row["conversations"])
    for template in ("vicuna", "chatml"):
        stop = "<|im_end|></s>" if template == "chatml" else "</s>"
        assert [learned(record, template) for record in records] == [
            [text.removesuffix("</s>") + stop for text in texts] for texts in taught
        ]
    with_tools = [json.loads(row["tools"]) != [] for row in rows]
    assert [record.messages[0].role == "system" for record in records] == with_tools


@pytest.mark.real
@pytest.mark.parametrize(("name", "number"), [("dpo_en_demo", 133), ("dpo_zh_demo", 146), ("dpo_zh_500", 253)])
def test_real_preferences_rank_the_chosen_answer_first(real, real_rows, learned, name, number):
    file = f"preference/{name}.jsonl.gz"
    path, rows = real / file, real_rows(file)
    records = list(create("dataset", "sharegpt", path=str(path)).load("train"))
    assert len(records) == len(rows) == number
    for record, row in zip(records, rows, strict=True):
        answers = [a if isinstance(a, str) else a["value"] for a in (row["chosen"], row["rejected"])]
        assert learned(record, "vicuna") == [f"{answer}</s>" for answer in answers]
        assert record.ranks == ((0, 1),)
        assert [message.content for message in record.prompt] == [turn["value"] for turn in row["conversations"]]
