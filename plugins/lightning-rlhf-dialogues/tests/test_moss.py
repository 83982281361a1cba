import pytest

from lightning_rlhf.records import Message
from lightning_rlhf.registry import create

META = "You are an AI assistant whose name is MOSS.\n- Inner thoughts: {}.\n- Calculator: {}.\n"
ENABLED, DISABLED = META.format("enabled", "enabled"), META.format("disabled", "disabled")


def a_round(human, moss, thoughts="None", commands="None", results="\nNone\n"):
    return {
        "Human": f"<|Human|>: {human}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {thoughts}<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "Tool Responses": f"<|Results|>:{results}<eor>\n",
        "MOSS": f"<|MOSS|>: {moss}<eom>\n",
    }


def row(*rounds, meta=ENABLED, **fields):
    chat = {f"turn_{number}": parts for number, parts in enumerate(rounds, start=1)}
    return {"conversation_id": 1, "meta_instruction": meta, "num_turns": len(rounds), "chat": chat, **fields}


CALCULATED = a_round("12*12?", "144.", "A product.", 'Calculate("12*12")', '\nCalculate("12*12") => 144\n')
CHATTED = a_round("谢谢", "不客气。")


def test_thoughts_commands_and_answers_are_learned_and_results_never(load, learned):
    (record,) = load("moss", [row(CALCULATED, CHATTED)], "a.json")
    assert [message.role for message in record.messages] == [
        "system",
        *["user", "assistant", "assistant", "tool", "assistant"] * 2,
    ]
    assert record.messages[4] == Message("tool", 'Calculate("12*12") => 144')
    assert learned(record, "moss") == [
        "A product.<eot></s>",
        'Calculate("12*12")<eoc></s>',
        "144.<eom></s>",
        "None<eot></s>",
        "None<eoc></s>",
        "不客气。<eom></s>",
    ]
    for template in ("vicuna", "chatglm", "hh"):
        assert learned(record, template)[:3] == ["A product.</s>", 'Calculate("12*12")</s>', "144.</s>"]
        assert not any("=> 144" in text for text in learned(record, template))


def test_the_template_writes_the_file_again(load):
    (record,) = load("moss", [row(CALCULATED, CHATTED)])
    rendered = "".join(segment.text for segment in create("prompt_template", "moss").render(record.messages))
    assert rendered == ENABLED + "".join([*CALCULATED.values(), *CHATTED.values()])


def test_rounds_without_inner_steps_are_a_question_and_an_answer(load, learned):
    (record,) = load("moss", [row(CHATTED, CHATTED, meta=DISABLED)])
    assert [message.role for message in record.messages] == ["system", *["user", "assistant"] * 2]
    assert learned(record, "moss") == ["不客气。<eom></s>"] * 2
    rendered = "".join(segment.text for segment in create("prompt_template", "moss").render(record.messages))
    assert rendered == DISABLED + "<|Human|>: 谢谢<eoh>\n<|MOSS|>: 不客气。<eom>\n" * 2


@pytest.mark.parametrize(("meta", "expected"), [("", ""), ("You are MOSS.\n", "You are MOSS.\n"), (None, "")])
def test_a_row_that_thinks_gets_the_line_that_says_so(load, learned, meta, expected):
    (record,) = load("moss", [row(CALCULATED, meta=meta)])
    assert record.messages[0] == Message("system", f"{expected}- Inner thoughts: enabled.")
    assert learned(record, "moss")[0] == "A product.<eot></s>"


def test_rounds_come_in_the_order_of_their_numbers(load, learned):
    rounds = [a_round(f"q{number}", f"a{number}") for number in range(1, 13)]
    shuffled = row(*rounds, meta=DISABLED)
    shuffled["chat"] = dict(sorted(shuffled["chat"].items()))  # turn_1, turn_10, turn_11, turn_12, turn_2, …
    (record,) = load("moss", [shuffled])
    assert learned(record, "moss") == [f"a{number}<eom></s>" for number in range(1, 13)]


def test_null_rounds_and_absent_steps_do_not_count(load, learned):
    short = {"Human": "<|Human|>: Hi<eoh>\n", "MOSS": "<|MOSS|>: Hello!<eom>\n", "Commands": None}
    chat = {"turn_1": short, "turn_2": None}
    (record,) = load("moss", [{"chat": chat, "num_turns": 1}])
    assert record.messages == (Message("user", "Hi"), Message("assistant", "Hello!"))


def test_a_folder_of_conversations_is_read(write, tmp_path):
    for number in (1, 2):
        write(f"harmless/conversation_{number}.json", row(CHATTED, meta=DISABLED))
    assert len(list(create("dataset", "moss", path=str(tmp_path / "harmless")).load("train"))) == 2


def test_what_the_policy_is_asked_after_each_step():
    template = create("prompt_template", "moss")
    system, user = Message("system", ENABLED.rstrip("\n")), Message("user", "12*12?")
    steps = [Message("assistant", "A product."), Message("assistant", "Calculate"), Message("tool", "144")]
    markers = [
        "".join(segment.text for segment in template.generation_prompt([system, user, *steps[:number]])).rsplit(
            "\n", 1
        )[1]
        for number in range(4)
    ]
    assert markers == ["<|Inner Thoughts|>: ", "<|Commands|>: ", "<|MOSS|>: ", "<|MOSS|>: "]
    plain = template.generation_prompt([user])
    assert "".join(segment.text for segment in plain) == "<|Human|>: 12*12?<eoh>\n<|MOSS|>: "


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"chat": None}, "must have the field 'chat'"),
        ({"chat": {}}, "numbered from 1 on, got []"),
        ({"chat": {"turn_1": CHATTED, "turn_3": CHATTED}}, "numbered from 1 on, got [1, 3]"),
        ({"chat": {"first": CHATTED}}, "got 'first'"),
        ({"chat": {"turn_1": {"Human": "Hi"}}}, "must have the field 'MOSS'"),
        ({"chat": {"turn_1": {**CHATTED, "MOSS": "<|MOSS|>: <eom>\n"}}}, "must not be empty"),
        ({"chat": {"turn_1": {**CHATTED, "Robot": "a"}}}, "got 'Robot'"),
        ({"num_turns": 2}, "num_turns must be the number of rounds, 1, got 2"),
        ({"meta_instruction": 3}, "field 'meta_instruction' must be a string"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, changes, rule):
    (bad,) = load("moss", [row(CHATTED, **changes)])
    assert rule in bad.rule
