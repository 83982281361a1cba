"""What validation shows, in the terminal and in the file."""

import json
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import Logger

from lightning_rlhf.callbacks import Sample, SampleTable
from lightning_rlhf.callbacks.sample_table import _markdown
from lightning_rlhf.errors import StorageError


def shown(path, samples, trainer=None, **options):
    state = {
        "sanity_checking": False,
        "is_global_zero": True,
        "global_step": 7,
        "current_epoch": 2,
        "default_root_dir": str(path),
        "loggers": [],
    }
    module = SimpleNamespace(take_samples=lambda: samples)
    SampleTable(**options).on_validation_end(SimpleNamespace(**state | (trainer or {})), module)


def rows(path):
    lines = (path / "samples.jsonl").read_text(encoding="utf-8").split("\n")  # text has other ends of lines as well
    return [json.loads(line) for line in lines if line]


def test_every_sample_is_a_row_of_the_file_and_validations_add_to_it(tmp_path, capsys):
    samples = [Sample(f"p{row}", "é\n", {"length": 1.5}, 0.25, "greedy") for row in range(3)]
    shown(tmp_path, samples, num_rows=1)
    shown(tmp_path, samples[:1])
    found = rows(tmp_path)
    assert len(found) == 4
    assert found[0] == {
        "step": 7,
        "epoch": 2,
        "prompt": "p0",
        "response": "é\n",
        "scores": {"length": 1.5},
        "kl": 0.25,
        "label": "greedy",
    }
    terminal = capsys.readouterr().out
    assert "p1" not in terminal


def test_the_table_names_the_kind_of_sample_and_its_numbers(tmp_path, capsys):
    shown(
        tmp_path, [Sample("p", "r", {"length": 1.5}, 0.25, "sampled"), Sample("p", "q", {"length": 2}, None, "greedy")]
    )
    terminal = capsys.readouterr().out
    assert "samples after 7 steps" in terminal
    for text in ("sampled", "greedy", "prompt", "response", "length", "KL", "1.50", "2.00", "0.25"):
        assert text in terminal


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path, capsys):
    shown(tmp_path, [Sample("[red]p[/red]", "[/] [link=x]", {"[b]": 1.0}, label="[i]")])
    terminal = capsys.readouterr().out
    for text in ("[red]p[/red]", "[/] [link=x]", "[b]", "[i]"):
        assert text in terminal


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    shown(tmp_path, [Sample("p", "a\x1b[2Jb\rc\x9bd")])
    terminal = capsys.readouterr().out
    assert "\\x1b[2Jb\\rc\\x9bd" in terminal
    assert "\x1b[2J" not in terminal
    assert rows(tmp_path)[0]["response"] == "a\x1b[2Jb\rc\x9bd"


def test_the_end_of_a_long_prompt_is_shown(tmp_path, capsys):
    shown(tmp_path, [Sample("x" * 500 + "end", "r")])
    terminal = capsys.readouterr().out
    assert "…" in terminal
    assert "end" in terminal


@pytest.mark.parametrize("trainer", [{"sanity_checking": True}, {"is_global_zero": False}])
def test_nothing_is_written_in_the_sanity_check_or_by_other_ranks(tmp_path, capsys, trainer):
    shown(tmp_path, [Sample("p", "r")], trainer)
    assert not (tmp_path / "samples.jsonl").exists()
    assert capsys.readouterr().out == ""


def test_a_table_for_tensorboard_keeps_its_cells_apart():
    text = _markdown([Sample("a|b", "c\nd", {"length": 1.0}, 0.5, "greedy")])
    assert text.splitlines() == [
        "| sample | prompt | response | length | KL |",
        "|---|---|---|---|---|",
        "| greedy | a&#124;b | c<br>d | 1.00 | 0.50 |",
    ]


def test_a_resumed_run_replaces_the_samples_that_it_takes_again(tmp_path):
    for step in (2, 4, 6):
        shown(tmp_path, [Sample(f"p{step}", "line\u2028end")], {"global_step": step})
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 7, "epo')  # a kill cut it off
    table = SampleTable()
    state = {"sanity_checking": False, "is_global_zero": True, "current_epoch": 0, "default_root_dir": str(tmp_path)}
    trainer = SimpleNamespace(**state, loggers=[], ckpt_path="last.ckpt", global_step=3)
    table.on_train_start(trainer, None)
    for step in (4, 5):
        trainer.global_step = step
        table.on_validation_end(trainer, SimpleNamespace(take_samples=lambda: [Sample("new", "r")]))
    assert [(row["step"], row["prompt"]) for row in rows(tmp_path)] == [(2, "p2"), (4, "new"), (5, "new")]
    assert (tmp_path / "samples.jsonl").stat().st_mode & 0o777 == 0o600  # they are responses: their owner's alone


def test_a_full_disk_is_a_message_that_names_the_file(tmp_path):
    (tmp_path / "samples.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"samples\.jsonl must be usable, got: No space left on device"):
        shown(tmp_path, [Sample("p", "r")])


def test_a_root_that_is_not_there_yet_is_made(tmp_path):
    for _ in range(2):
        shown(tmp_path / "not" / "there", [Sample("p", "r")])
    assert len(rows(tmp_path / "not" / "there")) == 2


class Tables(Logger):
    """A logger with tables, as that of Weights & Biases."""

    name, version = "tables", 0

    def __init__(self):
        self.tables = []

    def log_metrics(self, metrics, step=None):
        raise AssertionError

    def log_hyperparams(self, params):
        raise AssertionError

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.append((key, columns, data, step))


class Client:
    """As that of MLflow."""

    def __init__(self):
        self.tables = []

    def log_table(self, run_id, data, artifact_file):
        self.tables.append((run_id, data, artifact_file))


class WithClient(Tables):
    log_table = None
    run_id = "run"

    def __init__(self):
        self.experiment = Client()


def test_loggers_with_tables_get_one_each(tmp_path):
    samples = [
        Sample("p|", "r", {"length": 1.5}, 0.25, "sampled"),
        Sample("p", "q", {}, None, "greedy"),
        Sample("", ""),
    ]
    tables, client = Tables(), WithClient()
    shown(tmp_path, samples, {"loggers": [tables, client]}, num_rows=2)
    columns = ["sample", "prompt", "response", "scores/length", "kl"]
    data = [["sampled", "p|", "r", 1.5, 0.25], ["greedy", "p", "q", None, None]]
    assert tables.tables == [("samples", columns, data, 7)]
    ((run, found, file),) = client.experiment.tables
    assert (run, file) == ("run", "samples.json")
    assert found == {"step": [7, 7], **{name: [row[place] for row in data] for place, name in enumerate(columns)}}
