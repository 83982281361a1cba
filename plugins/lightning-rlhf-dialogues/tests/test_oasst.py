import pytest

from lightning_rlhf.records import Demonstration, Message, Ranking
from lightning_rlhf.registry import create


def node(text, *replies, role="prompter", **fields):
    return {
        "message_id": text,
        "text": text,
        "role": role,
        "lang": "en",
        "deleted": False,
        **fields,
        "replies": list(replies),
    }


def answer(text, *replies, **fields):
    return node(text, *replies, role="assistant", **fields)


TREE = node(
    "hi",
    answer("yes", node("why?", answer("so", rank=1), answer("hm"), answer("because", rank=0)), node("ok"), rank=0),
    answer("no", node("oh", answer("alone", rank=0)), rank=1),
)
ROWS = [{"message_tree_id": "hi", "tree_state": "ready_for_export", "prompt": TREE}]


def said(record):
    return [message.content for message in record.messages]


def flat(tree, parent=None):
    """The tree as a list of messages, as OpenAssistant publishes it too."""
    fields = {key: value for key, value in tree.items() if key != "replies"}
    rows = [{**fields, "parent_id": parent, "message_tree_id": "t"}]
    return rows + [row for reply in tree["replies"] for row in flat(reply, tree["message_id"])]


def test_an_answer_that_no_answer_follows_ends_a_dialogue(load, learned):
    records = load("oasst_threads", ROWS)
    assert [said(record) for record in records] == [
        ["hi", "yes", "why?", "so"],
        ["hi", "yes", "why?", "hm"],
        ["hi", "yes", "why?", "because"],
        ["hi", "no", "oh", "alone"],
    ]
    assert learned(records[0]) == ["yes</s>", "so</s>"]


def test_the_best_answers_alone_can_be_followed(load, learned):
    records = load("oasst_threads", ROWS, best_only=True)
    assert [learned(record) for record in records] == [["yes</s>", "because</s>"]]


def test_a_message_at_the_end_that_nobody_answered_is_left_out(load):
    (record,) = load("oasst_threads", [{"prompt": node("hi", answer("yes", node("and?"), node("so?")))}])
    assert said(record) == ["hi", "yes"]
    assert load("oasst_threads", [{"prompt": node("hi")}]) == []


def test_rankings_stand_wherever_two_answers_are_ranked(load, learned):
    records = load("oasst_rankings", ROWS)
    assert records == [
        Ranking("hi", ("yes", "no"), ((0, 1),)),
        Ranking(
            (Message("user", "hi"), Message("assistant", "yes"), Message("user", "why?")),
            ("so", "hm", "because"),
            ((1, None, 0),),
        ),
    ]
    assert learned(records[1], "vicuna") == ["so</s>", "hm</s>", "because</s>"]


@pytest.mark.parametrize("layout", ["oasst_threads", "oasst_rankings"])
def test_a_flat_list_of_messages_gives_what_its_tree_gives(load, layout):
    assert load(layout, flat(TREE)) == load(layout, ROWS)
    assert load(layout, flat(TREE)[::-1])  # children before their parents
    seed = [
        {"user_message_id": "a", "parent_message_id": None, "text": "hi", "role": "prompter"},
        {"user_message_id": "b", "parent_message_id": "a", "text": "yes", "role": "assistant"},
    ]
    assert [said(record) for record in load("oasst_threads", seed)] == [["hi", "yes"]]


def test_trees_of_a_flat_list_follow_one_another(load):
    other = [{**row, "message_tree_id": "u"} for row in flat(node("bye", answer("see you")))]
    assert said(load("oasst_threads", [*flat(TREE), *other])[-1]) == ["bye", "see you"]


def test_deleted_messages_are_left_out_with_what_stands_below(load):
    tree = node("hi", answer("yes", node("why?", answer("so")), deleted=True), answer("no"))
    assert [said(record) for record in load("oasst_threads", [{"prompt": tree}])] == [["hi", "no"]]


def test_trees_in_another_language_can_be_left_out(load):
    rows = [{"prompt": node("hi", answer("yes"))}, {"prompt": node("hallo", answer("ja"), lang="de")}]
    assert [said(record) for record in load("oasst_threads", rows, lang="de")] == [["hallo", "ja"]]


def test_a_tree_stays_on_one_side(write):
    rows = [
        {"prompt": node(f"hi {number}", answer("a", node("why?", answer("b"), answer("c"))))} for number in range(40)
    ]
    source = create("dataset", "oasst_threads", path=write("a.jsonl", rows), val_fraction=0.4)
    sides = [{said(record)[0] for record in source.load(split)} for split in ("train", "validation")]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"tree": 1}, "must have a tree's 'prompt'"),
        ({"prompt": {"text": "a"}}, "must have the field 'role'"),
        ({"prompt": node("hi", node("a", role="moderator"))}, "got 'moderator'"),
        ({"prompt": {**node("hi"), "replies": "no"}}, "the replies of a message must be a list"),
        ({"text": "a", "role": "prompter", "parent_id": None}, "an id of its own (message_id), got none"),
        ({"text": "a", "role": "prompter", "message_id": "1", "parent_id": "0"}, "must stand in its file too, got '0'"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("oasst_threads", [row])
    assert rule in bad.rule
    assert bad.line == 1


def test_an_id_that_comes_twice_is_a_bad_row_and_the_tree_stays(load):
    bad, good = load("oasst_threads", [*flat(node("hi", answer("yes"))), flat(node("hi"))[0]])
    assert "'hi' a second time" in bad.rule
    assert isinstance(good, Demonstration)


@pytest.mark.real
def test_real_trees_teach_answers_that_people_wrote(real, real_rows, learned):
    name = "ranking/oasst_en_trees.jsonl"
    path, trees = real / name, [row["prompt"] for row in real_rows(name)]

    def answers(node):
        return [
            n for reply in node["replies"] for n in ([reply] if reply["role"] == "assistant" else []) + answers(reply)
        ]

    def is_last(answer):
        return not answers(answer)

    records = list(create("dataset", "oasst_threads", path=str(path)).load("train"))
    last = [answer["text"] for tree in trees for answer in answers(tree) if is_last(answer)]
    assert sorted(learned(record, "vicuna")[-1] for record in records) == sorted(f"{text}</s>" for text in last)
    every = {answer["text"] for tree in trees for answer in answers(tree)}
    assert {text.removesuffix("</s>") for record in records for text in learned(record, "vicuna")} == every


@pytest.mark.real
def test_real_trees_rank_two_to_nine_answers(real, learned):
    path = real / "ranking/oasst_en_trees.jsonl"
    records = list(create("dataset", "oasst_rankings", path=str(path)).load("train"))
    assert len(records) == 104
    assert {len(record.responses) for record in records} == {2, 3, 4, 5, 6, 9}
    assert any(None in record.ranks[0] for record in records)
    for record in records:
        assert learned(record, "hh") == [f"{response}</s>" for response in record.responses]


@pytest.mark.real
def test_the_real_flat_list_gives_a_dialogue_per_last_answer(real, real_rows, learned):
    name = "dialogue/oasst_seed_threads_en.jsonl"
    path, rows = real / name, real_rows(name)
    children = {}
    for row in rows:
        children.setdefault(row["parent_message_id"], []).append(row)

    def is_answered(row):
        return any(c["role"] == "assistant" or is_answered(c) for c in children.get(row["user_message_id"], ()))

    last = [row["text"] for row in rows if row["role"] == "assistant" and not is_answered(row)]
    records = list(create("dataset", "oasst_threads", path=str(path)).load("train"))
    assert sorted(learned(record)[-1] for record in records) == sorted(f"{text}</s>" for text in last)
