import tracemalloc
from functools import partial

import pyarrow as pa
import pytest

from lightning_rlhf.data.packing import packed
from lightning_rlhf.data.rows import DemonstrationRows, PromptRows
from lightning_rlhf.data.storage import StoredRows, source_name, store_rows
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import BadRowError, DataError, RecordError
from lightning_rlhf.records import Demonstration, Message, Prompt, Text


@pytest.fixture
def formatter(fakes):
    return PromptFormatter(fakes.JoinedTemplate(), fakes.byte_tokenizer())


def dialogue(prompt, response):
    return Demonstration((Message("user", prompt), Message("assistant", response)))


def test_rows_come_back_as_they_were_made(fakes, formatter, tmp_path):
    records = [dialogue("a" * n, "b") for n in range(1, 5)]
    tokenization = DemonstrationRows(formatter, 99)
    tally = store_rows(tmp_path / "x", fakes.ListSource(records), "train", tokenization, on_bad_row="error")
    stored = StoredRows(tmp_path / "x")
    made = [row for record in records for row in tokenization.rows(record, tally)]
    assert len(stored) == tally.num_rows == stored.tally.num_rows == 4
    read = [*stored.__getitems__([3, 0]), stored[1]]
    assert [row.pop("places") for row in read] == [
        ["ListSource[train]:4"],
        ["ListSource[train]:1"],
        ["ListSource[train]:2"],
    ]
    assert read == [made[3], made[0], made[1]]
    assert stored.counts("num_tokens").tolist() == [row["num_tokens"] for row in made]


def test_rows_stay_on_disk(fakes, formatter, tmp_path):
    class Endless(fakes.ListSource):
        def load(self, split):
            return (Text("x y z " * 200) for _ in range(400))

    tokenization = DemonstrationRows(formatter, 64)
    tracemalloc.start()
    arrow_before = pa.total_allocated_bytes()
    store_rows(tmp_path / "x", Endless(), "train", tokenization, on_bad_row="error")
    stored = StoredRows(tmp_path / "x")
    stored.__getitems__([0, len(stored) - 1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "x" / "rows.arrow").stat().st_size
    assert size > 2_000_000
    assert peak < size / 2
    assert pa.total_allocated_bytes() - arrow_before < size / 4


def test_no_rows_are_an_empty_split(fakes, formatter, tmp_path):
    store_rows(tmp_path / "x", fakes.ListSource(), "test", DemonstrationRows(formatter, 99), on_bad_row="error")
    stored = StoredRows(tmp_path / "x")
    assert len(stored) == 0
    assert stored.counts("num_targets").tolist() == []


def bad_rows():
    return [
        dialogue("a", "b"),
        BadRowError("the role must be known.", origin="rows.jsonl", line=2),
        Text("\u200b"),
        Text("cd"),
    ]


def test_a_bad_row_of_the_source_is_raised_with_its_place(fakes, formatter, tmp_path):
    with pytest.raises(BadRowError, match=r"rows\.jsonl:2: the role must be known"):
        store_rows(
            tmp_path / "x", fakes.ListSource(bad_rows()), "train", DemonstrationRows(formatter, 99), on_bad_row="error"
        )


def test_a_row_that_tokenizes_badly_is_raised_with_its_number(fakes, formatter, tmp_path):
    source = fakes.ListSource([Prompt("a"), Prompt("")])
    with pytest.raises(BadRowError, match=r"ListSource\[train\]:2: a prompt must have at least one token"):
        store_rows(tmp_path / "x", source, "train", PromptRows(formatter, 99), on_bad_row="error")


def test_a_source_that_tells_places_has_them_in_the_error(fakes, formatter, tmp_path):
    class Placed(list):
        def with_places(self):
            return iter([(record, "a.jsonl", 10 * number) for number, record in enumerate(self, 1)])

    source = fakes.ListSource()
    source.splits["train"] = Placed([Prompt("a"), Prompt("")])
    with pytest.raises(BadRowError, match=r"^a\.jsonl:20: a prompt must"):
        store_rows(tmp_path / "x", source, "train", PromptRows(formatter, 99), on_bad_row="error")


def test_bad_rows_are_skipped_and_counted(fakes, formatter, tmp_path):
    class Picky(DemonstrationRows):
        def rows(self, record, tally):
            if isinstance(record, Text) and record.text != "cd":
                raise RecordError("bad.")
            return super().rows(record, tally)

    source = fakes.ListSource(bad_rows())
    tally = store_rows(tmp_path / "x", source, "train", Picky(formatter, 99), on_bad_row="skip")
    assert (tally.num_rows, tally.num_skipped) == (2, 2)


def test_another_kind_of_record_is_an_error_even_when_bad_rows_are_skipped(fakes, formatter, tmp_path):
    with pytest.raises(DataError, match="PromptData reads those"):
        store_rows(
            tmp_path / "x", fakes.ListSource([Prompt("a")]), "train", DemonstrationRows(formatter, 9), on_bad_row="skip"
        )


def test_the_progress_bar_waits_two_seconds(fakes, formatter, tmp_path, capsys, monkeypatch):
    source = fakes.ListSource([dialogue("a", "b")] * 50)
    store_rows(tmp_path / "x", source, "train", DemonstrationRows(formatter, 99), on_bad_row="error")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("lightning_rlhf.data.storage._SECONDS_BEFORE_BAR", 0.0)
    store_rows(tmp_path / "y", source, "train", DemonstrationRows(formatter, 99), on_bad_row="error")
    out, err = capsys.readouterr()
    assert out == ""
    assert "tokenizing train" in err


def test_a_source_is_named_by_its_class_and_place(fakes):
    source = fakes.ListSource()
    assert source_name(source) == "ListSource"
    source.path = "a.jsonl"
    assert source_name(source) == "ListSource a.jsonl"


def test_rows_know_their_file_and_line_also_when_they_are_packed(fakes, formatter, tmp_path):
    records = [dialogue("a" * n, "b") for n in range(1, 5)]
    tokenization = DemonstrationRows(formatter, 99)
    for name, arrange, places in (
        ("single", iter, ["ListSource[train]:4", "ListSource[train]:1"]),
        ("packed", partial(packed, max_length=9), None),
    ):
        source = fakes.ListSource(records)
        store_rows(tmp_path / name, source, "train", tokenization, on_bad_row="error", arrange=arrange)
        stored = StoredRows(tmp_path / name)
        if places is not None:
            assert stored.places([3, 0]) == places
        else:
            assert stored.places([0]) == ["ListSource[train]:1 and ListSource[train]:2"]
