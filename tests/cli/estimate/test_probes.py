"""Which rows stand for a run's batch."""

from lightning_rlhf.cli.estimate.probes import heaviest, longest_prompt

ROWS = [{"prompt_ids": [1] * length, "place": place} for place, length in enumerate([3, 9, 1, 7])]


def test_the_heaviest_batch_is_of_the_longest_rows():
    found = heaviest(ROWS, lambda row: len(row["prompt_ids"]), 2)
    assert [row["place"] for row in found] == [1, 3]
    assert len(heaviest(ROWS, lambda row: len(row["prompt_ids"]), 9)) == 4


def test_the_longest_prompt_of_all_is_taken():
    assert longest_prompt(ROWS) == [1] * 9
