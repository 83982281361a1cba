"""A dataset that somebody else has made: rows are read, nothing in it is run."""

import json
import pickle

import datasets
import pytest

from lightning_rlhf.builtins.sources import FileSource, HubSource
from lightning_rlhf.errors import BadRowError, DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def test_a_loading_script_is_not_run(tmp_path, payload):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(payload.source)
    for name in (folder, folder / "scripted.py"):
        with pytest.raises(DataError, match="must be readable from the hub"):
            list(HubSource(str(name)).load("train"))


def test_a_script_beside_rows_is_not_run(tmp_path, payload):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(payload.source)
    (folder / "train.jsonl").write_text('{"text": "a row"}\n')
    try:
        rows = list(HubSource(str(folder)).load("train"))
    except DataError:
        return
    assert [row.text for row in rows] == ["a row"]


@pytest.mark.parametrize("name", ["train.pkl", "train.pickle", "train.pt", "train.npy"])
def test_rows_that_are_pickles_are_not_read(tmp_path, payload, name):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(payload))
    with pytest.raises(DataError):
        list(HubSource(str(folder)).load("train"))
    with pytest.raises(DataError, match="suffix of a data file must be one of"):
        FileSource(str(folder / name))
    for file_format in ("jsonl", "json", "csv", "parquet", "text"):
        try:
            rows = list(FileSource(str(folder / name), file_format=file_format).load("train"))
        except DataError:
            continue
        assert all(isinstance(row, BadRowError) or isinstance(row.text, str) for row in rows)


def test_the_description_of_a_dataset_names_no_builder_that_unpickles(tmp_path, payload):
    folder = tmp_path / "described"
    folder.mkdir()
    (folder / "rows.pkl").write_bytes(pickle.dumps(payload))
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: rows.pkl\n---\n")
    with pytest.raises(DataError):
        list(HubSource(str(folder)).load("train"))


def test_what_a_row_says_is_text(tmp_path, payload):
    """Names of classes, YAML tags, templates and markup in a row mean nothing."""
    texts = [
        "!!python/object/apply:os.system ['x']",
        "{{ cycler.__init__.__globals__.os.system('x') }}",
        '{"class_path": "os.system"}',
        "__import__('os').system('x')",
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [record.text for record in FileSource(str(tmp_path / "rows.jsonl")).load("train")] == texts
