import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_rlhf.builtins.rows import RESERVED_COLUMNS, RowReader, record_from_row
from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Text

USER = Message("user", "hi")
ASSISTANT = Message("assistant", "hello")
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"text": "once"}, Text("once")),
        ({"prompt": "hi", "response": "hello"}, Demonstration((USER, ASSISTANT))),
        ({"prompt": [{"role": "user", "content": "hi"}], "response": "hello"}, Demonstration((USER, ASSISTANT))),
        ({"messages": SHAREGPT}, Demonstration((USER, ASSISTANT))),
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, Ranking((USER,), ("a", "b"), ((0, 1),))),
        ({"prompt": "hi", "responses": ["a", "b"], "ranks": [1, None]}, Ranking((USER,), ("a", "b"), ((1, None),))),
        (
            {"prompt": "hi", "responses": ["a", "b"], "ranks": [[0, 1], [1, 0]]},
            Ranking((USER,), ("a", "b"), ((0, 1), (1, 0))),
        ),
        (
            {"prompt": "hi", "responses": ["a", "b", "c"], "scores": [0.5, 2, 0.5]},
            Ranking((USER,), ("a", "b", "c"), ((1, 0, 1),), (0.5, 2, 0.5)),
        ),
        ({"prompt": "hi"}, Prompt((USER,))),
        ({"messages": [{"role": "user", "content": "hi"}], "answer": 4}, Prompt((USER,), {"answer": 4})),
        ({"prompt": "hi", "response": None, "text": "kept"}, Prompt((USER,), {"response": None, "text": "kept"})),
    ],
)
def test_every_accepted_row_becomes_its_record(row, record):
    assert record_from_row(row) == record


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (["prompt"], "a row must be an object"),
        ({"question": "hi"}, "got the fields 'question'"),
        ({}, "got no field"),
        ({"prompt": "hi", "chosen": "a"}, "must have the field 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "must have the field 'prompt'"),
        ({"prompt": "hi", "responses": ["a", "b"]}, "'ranks' or 'scores'"),
        ({"prompt": "hi", "responses": ["a"], "ranks": [0]}, "at least two responses"),
        ({"prompt": "hi", "responses": ["a", "b"], "ranks": [0]}, "one entry per response"),
        ({"prompt": "hi", "responses": ["a", "b"], "ranks": [0, -1]}, "0 or more"),
        ({"prompt": "hi", "responses": ["a", "b"], "ranks": [True, False]}, "a finite number or null"),
        ({"prompt": "hi", "responses": "ab", "ranks": [0, 1]}, "responses must be a list"),
        ({"prompt": "hi", "chosen": True, "rejected": "b"}, "a response must be a string"),
        ({"prompt": "hi", "chosen": {"from": "human", "value": "a"}, "rejected": "b"}, "come from the assistant"),
        ({"prompt": 3}, "a prompt must be a string or a list of messages"),
        ({"prompt": []}, "messages must not be empty"),
        ({"prompt": SHAREGPT}, "end before the assistant's turn"),
        ({"messages": ["hi"]}, "a message must be an object"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "the role of a message"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "the role of a message"),
        ({"messages": [{"role": "user", "content": None}]}, "content of a message must be a string"),
        ({"prompt": "hi", "response": ""}, "must not be empty"),
        ({"text": "  "}, "text must not be empty"),
        ({"text": 3}, "text must be a string"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_with_the_rule(row, rule):
    with pytest.raises(RecordError, match=rule):
        record_from_row(row)


@pytest.mark.parametrize("name", RESERVED_COLUMNS)
def test_a_column_with_a_reserved_name_is_refused_until_it_is_renamed(name):
    row = {"prompt": "hi", name: ["x"]}
    with pytest.raises(RecordError, match=f"must not have a column '{name}'|messages|scores|a message"):
        record_from_row(row, kind="prompt")
    assert record_from_row(row, {"own": name}).columns == {"own": ["x"]}


def test_columns_rename_fields_reach_into_them_and_gather_them():
    row = {
        "conversations": SHAREGPT[:1],
        "best": {"value": "a"},
        "others": [{"value": "b"}, {"value": "c"}],
        "grades": {"a": True, "b": False},
    }
    columns = {
        "prompt": "conversations",
        "responses": ["best.value", "others.0.value", "others.1.value"],
        "scores": ["grades.a", "grades.b", "grades.b"],
    }
    assert record_from_row(row, columns) == Ranking((USER,), ("a", "b", "c"), ((0, 1, 1),), (1.0, 0.0, 0.0))


def test_a_field_whose_name_has_a_dot_is_found_before_the_path():
    assert record_from_row({"a.b": "dotted", "a": {"b": "nested"}}, {"text": "a.b"}) == Text("dotted")


@pytest.mark.parametrize("place", ["nothing", "deep.nothing", "many.2", "many.-1", "many.x", "deep.value.more"])
def test_a_mapped_field_that_is_missing_is_named_with_its_mapping(place):
    row = {"deep": {"value": "x"}, "many": ["x", "y"]}
    with pytest.raises(RecordError, match=rf"must have '{place}' \(columns: text\), got the fields 'deep', 'many'"):
        record_from_row(row, {"text": place})


def test_a_renamed_field_is_no_column_any_more_and_others_are():
    record = record_from_row({"question": "hi", "answer": "4", "level": 2}, {"prompt": "question", "gold": "answer"})
    assert record == Prompt((USER,), {"gold": "4", "level": 2})


def test_tool_turns_of_sharegpt_keep_their_sides():
    roles = ["system", "human", "function_call", "observation", "gpt"]
    record = record_from_row({"messages": [{"from": role, "value": "x"} for role in roles]})
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_whole_dialogues_as_members_share_their_prompt():
    bad = [SHAREGPT[0], {"from": "gpt", "value": "no"}]
    expected = Ranking((USER,), ("hello", "no"), ((0, 1),))
    assert record_from_row({"chosen": SHAREGPT, "rejected": bad}) == expected
    assert record_from_row({"prompt": "hi", "chosen": SHAREGPT, "rejected": bad}) == expected
    with pytest.raises(RecordError, match="start with the row's prompt"):
        record_from_row({"prompt": "other", "chosen": SHAREGPT, "rejected": bad})


def test_kind_reads_a_demonstration_file_as_prompts():
    row = {"prompt": "hi", "response": "hello"}
    assert record_from_row(row, kind="prompt") == Prompt((USER,), {"response": "hello"})


@pytest.mark.parametrize("kind", ["prompt", "demonstration", "ranking"])
def test_a_prompt_that_is_no_text_is_called_a_prompt(kind):
    row = {"prompt": 3, "response": "a", "chosen": "a", "rejected": "b"}
    with pytest.raises(RecordError, match="a prompt must be a string or a list of messages, got 3"):
        record_from_row(row, kind=kind)


def test_kind_names_the_field_that_its_rows_lack():
    with pytest.raises(RecordError, match="a ranking row must have the field 'chosen', got the fields 'prompt'"):
        record_from_row({"prompt": "hi"}, kind="ranking")


def test_rows_of_two_kinds_are_not_mixed():
    reader = RowReader()
    reader.record({"prompt": "hi"})
    with pytest.raises(RecordError, match="of one kind, got a demonstration row after prompt rows"):
        reader.record({"prompt": "hi", "response": "hello"})
    assert reader.record({"prompt": "hi"}) == Prompt((USER,))


def test_a_bad_row_does_not_decide_the_kind():
    reader = RowReader()
    with pytest.raises(RecordError):
        reader.record({"prompt": "hi", "chosen": "a"})
    assert reader.record({"text": "once"}) == Text("once")


def test_a_dialogue_that_the_user_ended_stays_a_demonstration_among_demonstrations():
    reader = RowReader()
    reader.record({"messages": SHAREGPT})
    assert isinstance(reader.record({"messages": [*SHAREGPT, SHAREGPT[0]]}), Demonstration)
    with pytest.raises(RecordError, match="at least one assistant message"):
        reader.record({"messages": SHAREGPT[:1]})


ROWS = [
    {"prompt": "hi", "response": None},
    {"prompt": "hi", "response": "hello"},
    {"messages": SHAREGPT[:1]},
    {"text": "once"},
    {"prompt": "hi", "chosen": "a", "rejected": "b"},
]


@pytest.mark.parametrize(
    ("wanted", "good"),
    [(("demonstration", "text"), {1, 3}), (("ranking",), {4}), (("prompt", "demonstration", "ranking"), {0, 1, 2, 4})],
)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]])
def test_what_a_row_is_does_not_depend_on_the_rows_before_it_where_its_reader_says_what_it_wants(wanted, good, order):
    reader = RowReader(wanted=wanted)
    read = set()
    for place in order:
        try:
            reader.record(ROWS[place])
            read.add(place)
        except RecordError as error:
            assert f"a {wanted[0]} row must have the field" in str(error) or "assistant message" in str(error)  # noqa: PT017
    assert read == good


def test_a_row_of_another_kind_says_what_it_lacks_and_who_reads_it():
    reader = RowReader(wanted=("demonstration", "text"))
    with pytest.raises(RecordError, match=r"the field 'response', got null\. PromptData reads prompt rows"):
        reader.record(ROWS[0])
    with pytest.raises(RecordError, match=r"the field 'response', got the fields .* RankingData reads ranking rows"):
        reader.record(ROWS[4])


def test_what_kind_says_of_the_rows_stands_before_what_is_wanted():
    assert isinstance(RowReader(kind="prompt", wanted=("demonstration",)).record(ROWS[1]), Prompt)


def test_cells_of_text_hold_messages_as_json_and_other_lists_as_text():
    reader = RowReader(text_cells=True)
    user, good, bad = ('[{"role": "user", "content": "hi"}]', '[{"from": "gpt", "value": "a"}]', "b")
    assert reader.record({"prompt": user, "chosen": good, "rejected": bad}) == Ranking((USER,), ("a", "b"), ((0, 1),))
    sort = {"prompt": "Sort [2, 1] as a JSON list", "response": "[1, 2]"}
    assert RowReader(text_cells=True).record(sort).messages[1].content == "[1, 2]"
    as_python_shows = "[{'role': 'user', 'content': 'hi'}]"
    with pytest.raises(RecordError, match=r"field 'prompt' must hold its messages as JSON.*json\.dumps"):
        reader.record({"prompt": as_python_shows, "chosen": "a", "rejected": "b"})
    assert record_from_row({"prompt": user}) == Prompt((Message("user", user),))  # a string of a JSON file is a string


def test_cells_of_text_hold_lists_as_json_and_gathered_numbers():
    reader = RowReader({"scores": ["s1", "s2"]}, text_cells=True)
    record = reader.record({"prompt": "hi", "responses": '["a", "[b]"]', "s1": "0.5", "s2": ""})
    assert record == Ranking((USER,), ("a", "[b]"), ((0, None),), (0.5, None))
    with pytest.raises(RecordError, match="must hold a JSON list"):
        reader.record({"prompt": "hi", "responses": "a, b", "s1": "1", "s2": "2"})
    with pytest.raises(RecordError, match="must be numbers, got 'good'"):
        reader.record({"prompt": "hi", "responses": '["a", "b"]', "s1": "good", "s2": "2"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    ["text", "prompt", "response", "messages", "responses", "ranks", "scores", "chosen", "rejected", "role", "stopped"]
)


# A busy machine builds the first row slowly.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(field_names, json_values), st.sampled_from([None, "text", "demonstration", "ranking", "prompt"]))
def test_any_row_gives_a_record_or_a_record_error(row, kind):
    try:
        record = record_from_row(row, kind=kind)
    except RecordError:
        return
    assert isinstance(record, Text | Demonstration | Ranking | Prompt)
