from itertools import product

import pytest

from lightning_rlhf.errors import BadRowError
from lightning_rlhf.records import Message
from lightning_rlhf.registry import create

ROW = {
    "idx": 1, "cmp_key": "a_b", "instruction": "Shorten.", "input": "A very small dog.",
    "response1": "A dog.", "response2": "A very, very small dog.", "annotator1": 1, "annotator2": 0, "annotator3": 2,
}  # fmt: skip


def test_each_annotator_ranks_the_two_responses(load, learned):
    (record,) = load("pandalm", [ROW], "a.json")
    assert record.prompt == (Message("user", "Shorten.\nA very small dog."),)
    assert record.ranks == ((0, 1), (0, 0), (1, 0))
    assert learned(record, "alpaca") == ["A dog.</s>", "A very, very small dog.</s>"]


def test_an_annotator_who_did_not_judge_is_left_out(load):
    (record,) = load("pandalm", [{**ROW, "annotator2": None}])
    assert record.ranks == ((0, 1), (1, 0))


def test_cells_of_csv_are_numbers(load):
    header, cells = ",".join(ROW), ",".join(str(value) for value in ROW.values()).replace("very, very", "very")
    (record,) = load("pandalm", f"{header}\n{cells}\n", "a.csv")
    assert record.ranks == ((0, 1), (0, 0), (1, 0))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"response1": True}, "field 'response1' must be a string, got True"),
        ({"annotator1": 3}, "annotator1 must be 0 (a tie), 1 or 2"),
        ({"annotator1": True}, "annotator1 must be 0"),
        ({"instruction": " ", "input": ""}, "an instruction or an input"),
        ({"annotator1": None, "annotator2": None, "annotator3": None}, "the verdict of an annotator"),
    ],
)
def test_what_is_not_in_the_layout_is_a_bad_row(load, changes, rule):
    (bad,) = load("pandalm", [{**ROW, **changes}])
    assert rule in bad.rule


@pytest.mark.real
def test_real_comparisons_keep_three_verdicts_and_rows_that_hold_true_are_bad(real, real_rows, learned):
    name = "preference/pandalm_human_testset_v1.jsonl.gz"
    path, rows = real / name, real_rows(name)
    records = list(create("dataset", "pandalm", path=str(path)).load("train"))
    assert len(records) == len(rows) == 474
    places = {0: (0, 0), 1: (0, 1), 2: (1, 0)}
    for number, (record, row) in enumerate(zip(records, rows, strict=True), start=1):
        responses = [row["response1"], row["response2"]]
        if isinstance(record, BadRowError):
            assert True in responses
            assert record.line == number
            continue
        assert record.ranks == tuple(places[row[f"annotator{place}"]] for place in (1, 2, 3))
        assert learned(record, "alpaca") == [f"{response}</s>" for response in responses]
    kept = [record for record in records if not isinstance(record, BadRowError)]
    assert len(kept) == 468
    found = {verdict for record in kept for verdict in record.ranks}
    assert found == set(places.values())
    assert any(first != second for record in kept for first, second in product(record.ranks, repeat=2))
