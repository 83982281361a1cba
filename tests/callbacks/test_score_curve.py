"""The file and the picture of score over KL."""

import csv
from dataclasses import replace

from lightning_rlhf.callbacks.collapse_signs import IterationRecord
from lightning_rlhf.callbacks.score_curve import draw_score_curve, write_score_curve

FIRST = IterationRecord(0, 0, 8, 0.0, 1.0, 0.5, 10.0, 5.0, 0.9, 1.0)
RECORDS = [
    FIRST,
    replace(FIRST, iteration=1, step=4, kl=2.0, heldout={"<b>&": 0.25}, heldout_deviation={"<b>&": 0.1}),
    replace(FIRST, iteration=2, step=8, kl=5.0, score=3.0, causes=["kl", "entropy"]),
]


def test_the_file_has_a_row_per_iteration_and_empty_cells_for_what_was_not_scored(tmp_path):
    write_score_curve(tmp_path / "run" / "kl-scores.csv", RECORDS)
    with (tmp_path / "run" / "kl-scores.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["iteration"] for row in rows] == ["0", "1", "2"]
    assert [row["kl"] for row in rows] == ["0.0", "2.0", "5.0"]
    assert [row["heldout/<b>&"] for row in rows] == ["", "0.25", ""]
    assert rows[1]["heldout_deviation/<b>&"] == "0.1"
    assert rows[2]["causes"] == "kl entropy"


def test_the_picture_is_the_same_for_the_same_records_and_escapes_names(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_score_curve(tmp_path / name, RECORDS)
    first = (tmp_path / "a.svg").read_text()
    assert first == (tmp_path / "b.svg").read_text()
    assert "<b>" not in first
    draw_score_curve(tmp_path / "c.svg", [*RECORDS, replace(FIRST, iteration=3, kl=9.0)])
    assert first != (tmp_path / "c.svg").read_text()


def test_another_ending_makes_another_format(tmp_path):
    draw_score_curve(tmp_path / "one.png", RECORDS[:1])
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
