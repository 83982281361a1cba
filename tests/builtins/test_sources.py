import gzip
import json
import os
import pickle
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_rlhf.builtins.sources import FileSource, HubSource
from lightning_rlhf.errors import BadRowError, ConfigError, DataError
from lightning_rlhf.records import Demonstration, Prompt, Ranking, Text


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prompts(count):
    return [{"prompt": f"prompt {number}"} for number in range(count)]


def test_a_bad_row_takes_its_place_in_the_stream_and_names_file_line_and_rule(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"prompt": "a", "response": "b"}\n\n{"prompt": "a", "response": true}\n{"prompt"\n{"text": "c"}\n'
    )
    good, wrong_type, no_json, other_kind = FileSource(str(path)).load("train")
    assert isinstance(good, Demonstration)
    assert (wrong_type.origin, wrong_type.line) == (str(path), 3)
    assert str(wrong_type).startswith(f"{path}:3: a response must be a string")
    assert (no_json.line, other_kind.line) == (4, 5)
    assert "must be JSON" in no_json.rule
    assert "of one kind" in other_kind.rule
    assert all(isinstance(row, BadRowError) for row in (wrong_type, no_json, other_kind))


def test_every_load_and_every_pass_yields_the_same_records(tmp_path):
    source = FileSource(write_jsonl(tmp_path / "a.jsonl", prompts(20)), val_fraction=0.3)
    records = source.load("train")
    assert list(records) == list(records) == list(source.load("train"))


def test_files_are_read_one_after_the_other_and_bad_rows_name_their_own(tmp_path):
    first, second = write_jsonl(tmp_path / "a.jsonl", prompts(2)), tmp_path / "b.csv"
    second.write_text("prompt,level\nhi,1\nonly one cell\n", encoding="utf-8")
    records = list(FileSource([first, str(second)]).load("train"))
    assert [type(record) for record in records] == [Prompt, Prompt, Prompt, BadRowError]
    assert records[2].columns == {"level": "1"}
    assert str(records[3]).startswith(f"{second}:3: ")


def test_fractions_cut_disjoint_splits_that_add_up_to_all_rows(tmp_path):
    rows = [{"prompt": f"prompt {number % 40}", "response": str(number)} for number in range(120)]
    path = tmp_path / "a.jsonl"
    write_jsonl(path, rows)
    with path.open("a", encoding="utf-8") as file:
        file.write("broken\n")
    source = FileSource(str(path), val_fraction=0.25, test_fraction=0.25)
    splits = {split: list(source.load(split)) for split in ("train", "validation", "test")}
    assert [type(record) for record in splits["train"]].count(BadRowError) == 1
    kept = {
        split: [record for record in records if not isinstance(record, BadRowError)]
        for split, records in splits.items()
    }
    assert sum(len(records) for records in kept.values()) == 120
    sides = [{record.messages[0] for record in records} for records in kept.values()]
    assert all(sides)
    assert len(set.union(*sides)) == sum(len(side) for side in sides) == 40


def test_a_split_that_nothing_supplies_is_empty(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", prompts(3))
    assert list(FileSource(path).load("validation")) == []
    assert list(FileSource({"test": path}).load("train")) == []


def test_a_file_per_split(tmp_path):
    train, test = write_jsonl(tmp_path / "a.jsonl", prompts(3)), write_jsonl(tmp_path / "b.jsonl", prompts(2))
    source = FileSource({"train": [train, train], "test": test})
    assert [len(list(source.load(split))) for split in ("train", "validation", "test")] == [6, 0, 2]


def test_the_length_is_known_where_a_file_says_it(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(prompts(5)), path)
    assert len(FileSource([str(path), str(path)]).load("train")) == len(list(FileSource([str(path)] * 2).load("train")))
    assert not hasattr(FileSource(str(path), val_fraction=0.5).load("train"), "__len__")
    assert not hasattr(FileSource(write_jsonl(tmp_path / "a.jsonl", prompts(2))).load("train"), "__len__")


def test_a_null_in_parquet_counts_as_an_absent_field(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": "hi", "response": None, "level": None}]), path)
    assert list(FileSource(str(path)).load("train")) == [Prompt("hi", {"response": None, "level": None})]


def test_odd_folder_names_and_the_home_folder_are_found(tmp_path, monkeypatch):
    folder = tmp_path / ".hidden [1] *?"
    folder.mkdir()
    assert len(list(FileSource(write_jsonl(folder / "a.jsonl", prompts(2))).load("train"))) == 2
    monkeypatch.setenv("HOME", str(folder))
    assert len(list(FileSource("~/a.jsonl").load("train"))) == 2


def test_what_is_no_readable_file_is_a_clear_error(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "empty.jsonl").touch()
    for name, rule in (
        ("none.jsonl", "must exist"),
        ("none", "must exist"),
        ("*.json", "must match at least one file"),
        ("folder.jsonl", "must hold data files or a saved dataset, got nothing"),
        ("empty.jsonl", "at least one row"),
    ):
        with pytest.raises(DataError, match=rule):
            FileSource(str(tmp_path / name)).load("train")


def test_half_a_gzip_file_ends_the_stream_with_an_error(tmp_path):
    packed = gzip.compress(b"".join(b'{"text": "%s"}\n' % os.urandom(20).hex().encode() for _ in range(2000)))
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="cut off"):
        list(FileSource(str(tmp_path / "a.jsonl.gz")).load("train"))


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"path": []}, "at least one file"),
        ({"path": ""}, "at least one file"),
        ({"path": {"dev": "a.jsonl"}}, "among train, validation, test, got 'dev'"),
        ({"path": {"train": "a.jsonl", "validation": "b.jsonl"}, "val_fraction": 0.1}, "val_fraction must be 0"),
        ({"path": "a.jsonl", "val_fraction": 1.5}, "val_fraction must be at least 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        FileSource(**arguments)


def test_an_unknown_suffix_is_refused_until_the_format_is_named(tmp_path):
    path = tmp_path / "reviews.pos"
    path.write_text("good\nfine\n", encoding="utf-8")
    with pytest.raises(DataError, match="file_format"):
        FileSource(str(path))
    assert list(FileSource(str(path), file_format="text").load("train")) == [Text("good"), Text("fine")]


def test_a_line_of_text_is_a_prompt_where_prompts_are_read_and_a_text_elsewhere(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("Name a fruit.\n\nName a tree.\n", encoding="utf-8")
    prompts = [Prompt("Name a fruit."), Prompt("Name a tree.")]
    texts = [Text("Name a fruit."), Text("Name a tree.")]
    source = FileSource(str(path))
    assert list(source.for_kinds([Prompt, Demonstration, Ranking]).load("train")) == prompts
    assert list(source.for_kinds([Demonstration, Text]).load("train")) == list(source.load("train")) == texts
    assert list(FileSource(str(path), kind="prompt").load("train")) == prompts
    renamed = FileSource(str(path), columns={"prompt": "text"}).for_kinds([Prompt])
    assert list(renamed.load("train")) == prompts


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="got 'dev'"):
        FileSource(write_jsonl(tmp_path / "a.jsonl", prompts(1))).load("dev")


def test_a_source_can_be_pickled(tmp_path):
    source = FileSource(write_jsonl(tmp_path / "a.jsonl", prompts(2)))
    assert list(pickle.loads(pickle.dumps(source)).load("train")) == list(source.load("train"))


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def load_dataset(name, config=None, **options):
        calls.append((name, config, options))
        if name == "owner/none":
            raise ConnectionError("no network")
        return {
            "train": datasets.Dataset.from_list([{"question": f"q{number}", "level": 1} for number in range(30)]),
            "validation": datasets.Dataset.from_list([{"question": "v", "level": 1}]),
            "held_out": datasets.Dataset.from_list([{"question": "h", "level": None}, {"question": None, "level": 1}]),
        }

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_hub_is_asked_once_and_never_runs_remote_code(hub):
    source = HubSource("owner/name", config="en", columns={"prompt": "question"}, revision="abc")
    assert [len(list(source.load(split))) for split in ("train", "validation", "test")] == [30, 1, 0]
    assert hub == [("owner/name", "en", {"revision": "abc"})]
    assert len(source.load("train")) == 30
    assert next(iter(source.load("train"))) == Prompt("q0", {"level": 1})


def test_hub_splits_are_mapped_and_bad_rows_named(hub):
    source = HubSource("owner/name", splits={"test": "held_out"}, columns={"prompt": "question"})
    good, bad = source.load("test")
    assert good == Prompt("h", {"level": None})
    assert str(bad).startswith("owner/name[held_out]:2: ")
    assert list(source.load("train")) == []


def test_hub_fractions_cut_the_training_rows(hub):
    source = HubSource("owner/name", columns={"prompt": "question"}, val_fraction=0.4)
    train, validation = list(source.load("train")), list(source.load("validation"))
    assert len(train) + len(validation) == 30
    assert validation
    assert not {record.prompt for record in train} & {record.prompt for record in validation}


def test_what_the_hub_does_not_have_is_a_clear_error(hub):
    with pytest.raises(DataError, match="must be readable from the hub, got ConnectionError: no network"):
        HubSource("owner/none").load("train")
    with pytest.raises(DataError, match="must have the split 'dev', got 'train', 'validation', 'held_out'"):
        HubSource("owner/name", splits={"validation": "dev"}).load("validation")


def real(name):
    return str(Path(os.environ["LIGHTNING_RLHF_REAL_DATA"]) / name)


@pytest.mark.real
def test_real_pandalm_pairs_lose_only_the_boolean_responses():
    columns = {"prompt": "instruction", "responses": ["response1", "response2"], "ranks": ["annotator1", "annotator2"]}
    records = list(FileSource(real("preference/pandalm_human_testset_v1.jsonl.gz"), columns).load("train"))
    bad = [record for record in records if isinstance(record, BadRowError)]
    assert (len(records), len(bad)) == (474, 6)
    assert all("must be a string" in row.rule and "True" in row.rule for row in bad)


@pytest.mark.real
@pytest.mark.parametrize(("name", "count"), [("dpo_zh_demo", 146), ("dpo_zh_500", 253), ("dpo_en_demo", 133)])
def test_real_preferences_are_read_whole_with_objects_and_with_strings(name, count):
    records = list(FileSource(real(f"preference/{name}.jsonl.gz"), {"prompt": "conversations"}).load("train"))
    assert len(records) == count
    assert all(isinstance(record, Ranking) and record.ranks == ((0, 1),) for record in records)


@pytest.mark.real
def test_real_solutions_are_ranked_by_their_verdicts():
    models = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]
    columns = {
        "prompt": "question",
        "responses": [f"{model}.solution" for model in models],
        "scores": [f"{model}.is_correct" for model in models],
    }
    records = list(FileSource(real("ranking/gsm8k_model_solutions.jsonl.gz"), columns).load("train"))
    assert len(records) == 663
    assert all(isinstance(record, Ranking) and len(record.responses) == 4 for record in records)
    assert {record.ranks[0] for record in records} >= {(0, 0, 0, 0), (1, 1, 1, 0)}


@pytest.mark.real
def test_real_dialogues_and_texts_are_read_whole():
    glaive = FileSource(real("dialogue/glaive_toolcall_en_demo.jsonl.gz"), {"messages": "conversations"})
    glaive_rows = list(glaive.load("train"))
    with_tools = [row for row in glaive_rows if isinstance(row, BadRowError)]
    assert len(glaive_rows) == 132
    assert sum(isinstance(row, Demonstration) for row in glaive_rows) == 132 - len(with_tools) == 49
    assert all("'tools'" in row.rule for row in with_tools)
    fairy_tales = FileSource(real("pretrain/grimm_fairy_tales.txt.gz"), text_unit="paragraph", val_fraction=0.1)
    assert all(isinstance(record, Text) for split in ("train", "validation") for record in fairy_tales.load(split))
    assert all(
        isinstance(record, Text)
        for record in FileSource(real("sentiment/rt-polarity.pos.gz"), file_format="text").load("train")
    )
