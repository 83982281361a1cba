import gzip
import json

import datasets
import pytest

from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.errors import BadRowError, DataError


def write(folder, *names):
    """Files of one row each, whose prompt is the file's name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        row = json.dumps({"prompt": name}) + "\n"
        (folder / name).write_bytes(gzip.compress(row.encode()) if name.endswith(".gz") else row.encode())


def read(path, split="train", **options):
    return [record.prompt[0].content for record in FileSource(path, **options).load(split)]


def save(path, rows, **options):
    datasets.Dataset.from_list(rows).save_to_disk(str(path), **options)


def prompts(*numbers):
    return [{"prompt": str(number)} for number in numbers]


def test_a_pattern_and_a_folder_read_their_shards_by_number(tmp_path, monkeypatch):
    write(
        tmp_path, "data/part-10.jsonl.gz", "data/part-2.jsonl.gz", "data/README.md", "data/.part-1.jsonl", "b/c/a.jsonl"
    )
    shards = ["data/part-2.jsonl.gz", "data/part-10.jsonl.gz"]
    monkeypatch.chdir(tmp_path)
    assert read("data/*.jsonl.gz") == read("data") == read("data/") == read({"test": "data"}, "test") == shards
    assert read(["b/**/*.jsonl", "data/part-[2-9]*"]) == ["b/c/a.jsonl", shards[0]]


def test_a_bad_row_names_its_shard_and_its_line(tmp_path, monkeypatch):
    write(tmp_path, "data/a-1.jsonl", "data/a-2.jsonl")
    with (tmp_path / "data/a-2.jsonl").open("a") as file:
        file.write("\nno json\n")
    monkeypatch.chdir(tmp_path)
    for path in ("data", "data/*.jsonl"):
        *_, bad = FileSource(path).load("train")
        assert isinstance(bad, BadRowError)
        assert str(bad).startswith("data/a-2.jsonl:3: ")


@pytest.mark.parametrize("names", [("train-0.jsonl", "train-1.jsonl", "dev-0.jsonl"), ("train/0.jsonl", "val/0.jsonl")])
def test_a_folder_whose_parts_are_named_after_splits_has_those_splits(tmp_path, names):
    write(tmp_path, *names)
    *train, validation = names
    assert read(str(tmp_path)) == train
    assert read(str(tmp_path), "validation") == [validation]
    assert read(str(tmp_path), "test") == []


def test_held_out_files_beside_others_are_not_trained_on(tmp_path):
    write(tmp_path, "rows.jsonl", "test.jsonl")
    with pytest.raises(DataError, match=r"files of one split.*'rows\.jsonl', 'test\.jsonl'"):
        FileSource(str(tmp_path)).load("train")


def test_files_of_two_formats_in_a_folder_are_refused(tmp_path):
    write(tmp_path, "a.jsonl", "b.csv")
    with pytest.raises(DataError, match=r"must be of one format, got 'a\.jsonl', 'b\.csv'"):
        FileSource(str(tmp_path)).load("train")


def test_a_named_format_reads_files_whose_names_say_none(tmp_path):
    write(tmp_path, "part-0", "part-1", "_SUCCESS")
    assert read(str(tmp_path), file_format="jsonl") == ["part-0", "part-1"]
    with pytest.raises(DataError, match="suffix of a data file"):
        FileSource(str(tmp_path / "*")).load("train")


def test_a_saved_dataset_is_read_in_its_order_and_knows_its_length(tmp_path):
    save(tmp_path / "saved", prompts(*range(5)), num_shards=2)
    assert read(str(tmp_path / "saved")) == list("01234")
    assert len(FileSource(str(tmp_path / "saved")).load("train")) == 5
    assert read({"test": [str(tmp_path / "saved")]}, "test") == list("01234")


def test_the_splits_of_a_saved_dataset_are_ours_but_those_that_are_cut_out_of_train(tmp_path):
    parts = {name: datasets.Dataset.from_list(prompts(name)) for name in ("train", "test", "train_sft")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    path = str(tmp_path / "saved")
    assert [read(path, split) for split in ("train", "validation", "test")] == [["train"], [], ["test"]]
    assert read(path, "test", test_fraction=0.01) == []
    assert read(f"{path}/train_sft") == ["train_sft"]
    with pytest.raises(DataError, match="with the splits train, test, train_sft"):
        FileSource([path]).load("train")
    datasets.DatasetDict({"train_sft": parts["test"]}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"the split 'train', got 'train_sft' in .*path: \{train: .*/train_sft\}"):
        FileSource(str(tmp_path / "other")).load("train")


def test_a_bad_row_of_a_saved_dataset_names_its_shard_and_its_row(tmp_path):
    save(tmp_path / "saved", [*prompts(1, 2), {"prompt": None}], num_shards=2)
    *_, bad = FileSource(str(tmp_path / "saved")).load("train")
    assert str(bad).startswith(f"{tmp_path}/saved/data-00001-of-00002.arrow:1: ")


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        ({"_data_files": [{"filename": "../secret.arrow"}]}, "must lie in its folder"),
        ({"_data_files": []}, "without files"),
        ({"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}, "save it again"),
        ([], "must be the JSON of a saved dataset"),
    ],
)
def test_a_saved_dataset_that_cannot_be_read_says_why(tmp_path, state, rule):
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=rule):
        FileSource(str(tmp_path)).load("train")
