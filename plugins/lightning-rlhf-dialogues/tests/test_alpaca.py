import pytest

from lightning_rlhf.builtins.templates import AlpacaTemplate
from lightning_rlhf.records import Message
from lightning_rlhf.registry import create

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
]


def test_the_output_alone_is_learned(load, learned):
    assert [learned(record, "alpaca") for record in load("alpaca", ROWS, "a.json")] == [["Red.</s>"], ["3</s>"]]


def test_an_input_stands_below_its_instruction(load):
    plain, given = load("alpaca", ROWS, "a.json")
    assert plain.messages[:-1] == (Message("user", "Name a colour."),)
    assert given.messages[:-1] == (Message("user", "Add.\n1, 2"),)


def test_an_input_of_its_own_is_headed_as_in_stanfords_prompt(load, learned):
    record = load("alpaca", ROWS, "a.json", input_role="tool")[1]
    rendered = "".join(segment.text for segment in AlpacaTemplate().render(record.messages))
    assert rendered.endswith("### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n3")
    assert learned(record, "alpaca") == ["3</s>"]


def test_every_instance_of_a_seed_task_is_a_demonstration(load, learned):
    row = {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}, {"input": "2, 2", "output": "4"}]}
    records = load("alpaca", [row])
    assert [record.messages[0].content for record in records] == ["Add.\n1, 2", "Add.\n2, 2"]
    assert [learned(record) for record in records] == [["3</s>"], ["4</s>"]]


def test_answers_of_the_history_are_learned_too(load, learned):
    row = {**ROWS[0], "system": "Be brief.", "history": [["Hi", "Hello!"]]}
    (record,) = load("alpaca", [row])
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert learned(record) == ["Hello!</s>", "Red.</s>"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"instruction": "a", "output": ""}, "must not be empty"),
        ({"instruction": "a"}, "must have the field 'output'"),
        ({"instruction": "a", "output": None}, "field 'output' must be a string, got None"),
        ({"instruction": " ", "input": "", "output": "b"}, "an instruction or an input"),
        ({"instruction": "a", "output": "b", "input": 3}, "field 'input' must be a string"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "a question and its answer"),
        ({"instruction": "a", "instances": []}, "at least one input and output"),
        (["a", "b"], "an object with named fields"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("alpaca", [row])
    assert rule in bad.rule


@pytest.mark.real
def test_of_real_seed_tasks_the_output_of_every_instance_is_learned(real, real_rows, learned):
    name = "sft/self_instruct_seed_tasks.jsonl"
    instances = [(row["instruction"], instance) for row in real_rows(name) for instance in row["instances"]]
    records = list(create("dataset", "alpaca", path=str(real / name), input_role="tool").load("train"))
    assert [learned(record, "alpaca") for record in records] == [[f"{one['output']}</s>"] for _, one in instances]
    for record, (instruction, instance) in zip(records, instances, strict=True):
        asked = [instruction, instance["input"]] if instance["input"] else [instruction]
        assert [message.content for message in record.messages[:-1]] == asked
