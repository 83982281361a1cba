import pytest

from lightning_rlhf.records import Ranking
from lightning_rlhf.registry import create

ANSWERS = ["很好，会再买。", '还"可以".', "不好。"]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.tsv", "\t".join(ANSWERS)),
        ("a.txt.gz", "\t".join(ANSWERS) + "\t\t\r\n"),
        ("a.jsonl", [ANSWERS]),
        ("a.json", [ANSWERS]),
        ("b.json", [{"prompt": "", "responses": ANSWERS}]),
        ("c.json", [{"answers": ANSWERS}]),
    ],
)
def test_the_answers_of_a_line_or_list_are_ranked_in_their_order(load, learned, name, rows):
    (record,) = load("best_first", rows, name)
    assert record == Ranking("", tuple(ANSWERS), ((0, 1, 2),))
    assert learned(record) == [f"{answer}</s>" for answer in ANSWERS]


@pytest.mark.parametrize(("name", "rows"), [("a.tsv", "q\tbest\tworst"), ("a.jsonl", [["q", "best", "worst"]])])
def test_the_first_entry_can_be_the_prompt(load, name, rows):
    assert load("best_first", rows, name, prompt_first=True) == [Ranking("q", ("best", "worst"), ((0, 1),))]


def test_lines_may_hold_different_numbers_of_answers(load):
    records = load("best_first", "a\tb\n\nc\td\te\tf\n", "a.tsv")
    assert [record.responses for record in records] == [("a", "b"), ("c", "d", "e", "f")]


def test_an_answer_in_the_middle_may_be_empty(load):
    (record,) = load("best_first", "a\t\tc", "a.tsv")
    assert record.responses == ("a", "", "c")


@pytest.mark.parametrize("prompt_first", [False, True])
def test_lists_with_and_without_prompts_can_be_split(write, prompt_first):
    path = write("a.tsv", "".join(f"line {number}\tbetter {number}\tworse {number}\n" for number in range(40)))
    source = create("dataset", "best_first", path=path, val_fraction=0.3, prompt_first=prompt_first)
    train, validation = list(source.load("train")), list(source.load("validation"))
    assert len(train) + len(validation) == 40
    assert len(validation) > 4
    assert not set(train) & set(validation)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (["one"], "at least two answers, the best first, got 1"),
        ([], "at least two answers"),
        (["a", 3], "every answer must be a string"),
        ("a", "a row must be a list"),
        ({"prompt": "a"}, "field 'responses' must be a list"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, row, rule):
    (bad,) = load("best_first", [row])
    assert rule in bad.rule
    (bad,) = load("best_first", [["only a prompt", "and one answer"]], prompt_first=True)
    assert "The first entry is the prompt" in bad.rule
