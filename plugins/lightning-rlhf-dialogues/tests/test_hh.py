import pytest

from lightning_rlhf.records import Message, Ranking

PROMPT = "\n\nHuman: Hi there!\n\nAssistant: Hello.\n\nHuman: One line,\n\nand another:\nwhy? "
ROW = {"chosen": f"{PROMPT}\n\nAssistant: Because. ", "rejected": f"{PROMPT}\n\nAssistant: No."}
MESSAGES = (
    Message("user", "Hi there!"),
    Message("assistant", "Hello."),
    Message("user", "One line,\n\nand another:\nwhy?"),
)


def test_the_chosen_answer_stands_before_the_rejected_one(load, learned):
    (record,) = load("hh", [ROW], "a.jsonl.gz")
    assert record == Ranking(MESSAGES, ("Because.", "No."), ((0, 1),))
    assert learned(record, "hh") == ["Because.</s>", "No.</s>"]


def test_the_chosen_dialogue_can_be_learned(load, learned):
    (record,) = load("hh", [ROW], record="demonstration")
    assert record.messages == (*MESSAGES, Message("assistant", "Because."))
    assert learned(record, "hh") == ["Hello.</s>", "Because.</s>"]


def test_the_template_writes_the_transcript_again(load):
    from lightning_rlhf.registry import create

    (record,) = load("hh", [ROW], record="demonstration")
    rendered = "".join(segment.text for segment in create("prompt_template", "hh").render(record.messages))
    assert rendered == ROW["chosen"].replace("why? ", "why?").strip(" ")


def test_a_red_teaming_transcript_is_a_demonstration(load, learned):
    (record,) = load("hh", [{"transcript": ROW["chosen"], "rating": 4.0, "tags": None}])
    assert learned(record, "hh") == ["Hello.</s>", "Because.</s>"]


def test_a_rejected_answer_may_be_empty(load):
    (record,) = load("hh", [{**ROW, "rejected": f"{PROMPT}\n\nAssistant:"}])
    assert record.responses == ("Because.", "")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rejected": "\n\nHuman: Other.\n\nAssistant: No."}, "must differ in their last turn only"),
        ({"rejected": None}, "field 'rejected' must be a string"),
        ({"chosen": "Hi\n\nAssistant: a"}, "'chosen' must begin with"),
        ({"chosen": "Hello."}, "'chosen' must begin with"),
        ({"rejected": f"{PROMPT}\n\nHuman: what?"}, "'rejected' must end with the assistant"),
        ({"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "a turn of the user before"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, changes, rule):
    (bad,) = load("hh", [{**ROW, **changes}])
    assert rule in bad.rule
