import gzip
import itertools
import json
import pickle
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_rlhf.errors import BadRowError, ConfigError, DataError
from lightning_rlhf.records import Demonstration
from lightning_rlhf.registry import create


def rows(count):
    return [{"instruction": f"Say {number}.", "input": "", "output": str(number)} for number in range(count)]


def said(records):
    return [record.messages[-1].content for record in records]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz"])
def test_an_array_and_lines_are_read_alike_packed_or_not(load, name):
    assert said(load("alpaca", rows(3), name)) == ["0", "1", "2"]


def test_lines_in_a_file_that_is_called_json_are_read_as_lines(load):
    text = "".join(json.dumps(row) + "\n" for row in rows(3))
    assert said(load("alpaca", text, "a.json")) == ["0", "1", "2"]


def test_an_object_by_itself_is_one_row(load):
    assert said(load("alpaca", rows(1)[0], "a.json")) == ["0"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(load):
    assert said(load("alpaca", "\ufeff" + json.dumps(rows(2)), "a.json")) == ["0", "1"]
    assert said(load("alpaca", "\ufeff" + json.dumps(rows(1)[0]), "b.json")) == ["0"]


@pytest.mark.parametrize(("name", "indent"), [("a.json", None), ("a.json.gz", 1), ("a.jsonl", None)])
def test_memory_does_not_grow_with_the_rows(write, name, indent):
    def peak(count):
        long = [{**row, "output": "x" * 2000} for row in rows(count)]
        path = write(name, long if name.endswith("l") else json.dumps(long, indent=indent))
        tracemalloc.start()
        assert sum(1 for _ in create("dataset", "alpaca", path=path).load("train")) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(3000) < peak(300) + 500_000  # the larger file has 6 MB


def test_a_bad_row_takes_its_place_in_the_stream_and_names_file_line_and_rule(load, write):
    good, wrong, broken, last = load(
        "alpaca", json.dumps(rows(1)[0]) + '\n{"instruction": 3, "output": "x"}\n{"\n' + json.dumps(rows(1)[0])
    )
    assert isinstance(good, Demonstration)
    assert isinstance(last, Demonstration)
    assert (wrong.line, broken.line) == (2, 3)
    assert str(wrong).endswith("rows.jsonl:2: field 'instruction' must be a string, got 3.")
    assert "must be JSON" in broken.rule


def test_a_row_of_an_array_is_named_by_its_place_in_it(load):
    records = load("alpaca", [*rows(2), {"instruction": "Say it."}], "a.json")
    assert [type(record) for record in records] == [Demonstration, Demonstration, BadRowError]
    assert records[2].line == 3
    assert "must have the field 'output', got the fields 'instruction'" in records[2].rule


def test_a_row_that_turns_out_bad_half_way_leaves_nothing_behind(load):
    seed = {"instruction": "Add.", "instances": [{"input": "1, 1", "output": "2"}, {"input": "1, 2", "output": ""}]}
    (bad,) = load("alpaca", [seed])
    assert "must not be empty" in bad.rule


def test_rows_of_another_kind_are_bad_rows(load):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    preference = {"conversations": turns[:1], "chosen": "Hello!", "rejected": "No."}
    _, bad = load("sharegpt", [{"conversations": turns}, preference])
    assert "must be of one kind, got a ranking after a demonstration" in bad.rule


def test_fractions_cut_disjoint_splits_that_add_up_and_bad_rows_are_told_of_once(write):
    path = write("a.json", [*rows(60), "no row", *rows(60)])
    source = create("dataset", "alpaca", path=path, val_fraction=0.3, test_fraction=0.2)
    splits = {split: list(source.load(split)) for split in ("train", "validation", "test")}
    assert [sum(isinstance(record, BadRowError) for record in records) for records in splits.values()] == [1, 0, 0]
    kept = {s: {r.messages for r in records if isinstance(r, Demonstration)} for s, records in splits.items()}
    assert sum(len(messages) for messages in kept.values()) == 60
    assert all(kept.values())
    assert not any(a & b for a, b in itertools.combinations(kept.values(), 2))


def test_the_split_is_that_of_the_source_file(write):
    path = write("a.jsonl", rows(50))
    columns = {"prompt": "instruction", "response": "output"}
    for split in ("train", "validation"):
        expected = create("dataset", "file", path=path, columns=columns, val_fraction=0.3).load(split)
        assert said(create("dataset", "alpaca", path=path, val_fraction=0.3).load(split)) == said(expected)


def test_files_per_split_lists_and_folders(write, tmp_path):
    write("parts/b/2.json", rows(2))
    write("parts/1.jsonl.gz", rows(1))
    write("parts/notes.md", "not data")
    held_out = write("held_out.json", rows(3))
    path = {"train": [str(tmp_path / "parts"), held_out], "test": held_out}
    source = create("dataset", "alpaca", path=path)
    assert [len(list(source.load(split))) for split in ("train", "validation", "test")] == [6, 0, 3]


def test_a_bad_row_in_a_folder_names_its_own_file(write, tmp_path):
    write("parts/good.json", rows(1))
    write("parts/sub/bad.json", '{"instruction": ')
    _, bad = create("dataset", "alpaca", path=str(tmp_path / "parts")).load("train")
    assert (bad.origin, bad.line) == (str(tmp_path / "parts/sub/bad.json"), 1)


def test_half_an_escaped_character_becomes_a_question_mark(load):
    assert said(load("alpaca", '[{"instruction": "a", "output": "b \\ud83d"}]', "a.json")) == ["b ?"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.json", "", "at least one row"),
        ("a.json", "[]", "at least one row"),
        ("a.json", '[{"instruction": "a", "output": "b"},', "one JSON array of rows, got parse error"),
        ("a.json", '[{"output": "\udcff"}]', "UTF8"),
        ("a.xml", "<a>", "suffix"),
        ("a.jsonl", "", "at least one row"),
    ],
)
def test_what_is_no_readable_file_ends_the_stream_with_an_error(tmp_path, name, text, rule):
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rule):
        list(create("dataset", "alpaca", path=str(tmp_path / name)).load("train"))


def test_half_a_gzip_file_is_a_clear_error(tmp_path):
    packed = gzip.compress(json.dumps(rows(2000)).encode())
    (tmp_path / "a.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="cut off"):
        list(create("dataset", "alpaca", path=str(tmp_path / "a.json.gz")).load("train"))


def test_a_path_that_is_not_there_and_an_empty_folder_are_clear_errors(tmp_path):
    with pytest.raises(DataError, match="must exist"):
        create("dataset", "alpaca", path=str(tmp_path / "none.json")).load("train")
    with pytest.raises(DataError, match=r"must hold \.jsonl, \.json, \.csv, \.parquet files"):
        create("dataset", "alpaca", path=str(tmp_path)).load("train")
    with pytest.raises(DataError, match="got 'dev'"):
        create("dataset", "alpaca", path="a.json").load("dev")


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"path": []}, "at least one file"),
        ({"path": {"dev": "a.json"}}, "among train, validation, test, got 'dev'"),
        ({"path": {"train": "a.json", "validation": "b.json"}, "val_fraction": 0.1}, "val_fraction must be 0"),
        ({"path": "a.json", "test_fraction": 1.0}, "test_fraction must be at least 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        create("dataset", "alpaca", **arguments)


def test_a_source_can_be_pickled(write):
    source = create("dataset", "alpaca", path=write("a.json", rows(2)))
    assert list(pickle.loads(pickle.dumps(source)).load("train")) == list(source.load("train"))


def test_parquet_is_read_and_its_nulls_count_as_absent(tmp_path):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    table = pa.Table.from_pylist(
        [{"conversations": turns, "system": None}, {"conversations": turns, "system": "Be kind."}]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    plain, ruled = create("dataset", "sharegpt", path=str(tmp_path / "a.parquet")).load("train")
    assert ([m.role for m in plain.messages], ruled.messages[0].content) == (["user", "assistant"], "Be kind.")
