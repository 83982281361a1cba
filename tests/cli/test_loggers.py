import csv
import shutil

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_rlhf.checkpoints.run_directory import RunDirectory
from lightning_rlhf.cli.loggers import MetricsFile, default_loggers
from lightning_rlhf.errors import StorageError


def rows(path):
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_row_is_on_disk_at_once_and_new_columns_widen_the_file(tmp_path):
    file = MetricsFile(tmp_path)
    file.log_metrics({"train/loss": 0.5}, step=0)
    assert rows(tmp_path / "metrics.csv") == [{"step": "0", "train/loss": "0.5"}]
    file.log_metrics({"val/loss": 2.0, "epoch": 0}, step=0)
    file.log_metrics({"train/loss": 0.25}, step=1)
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "0", "train/loss": "0.5"},
        {"step": "0", "val/loss": "2.0", "epoch": "0"},
        {"step": "1", "train/loss": "0.25"},
    ]


def test_a_resumed_run_replaces_the_rows_that_it_computes_again(tmp_path):
    before = MetricsFile(tmp_path)
    for step in range(4):
        before.log_metrics({"train/loss": float(step)}, step=step)
    after = MetricsFile(tmp_path, resume=True)
    after.log_metrics({"train/loss": 20.0}, step=2)
    assert [row["train/loss"] for row in rows(tmp_path / "metrics.csv")] == ["0.0", "1.0", "20.0"]


def test_of_the_first_step_again_only_what_is_logged_again_is_replaced(tmp_path):
    before = MetricsFile(tmp_path)
    for metrics in ({"train/loss": 1.0}, {"val/loss": 2.0}, {"objective/kl": 3.0}):
        before.log_metrics(metrics, step=4)
    before.log_metrics({"train/loss": 9.0}, step=5)
    after = MetricsFile(tmp_path, resume=True)  # from a checkpoint of step 4, whose validation is done again
    for metrics in ({"val/loss": 2.0}, {"val/loss": 2.5}, {"objective/kl": 3.0}):
        after.log_metrics(metrics, step=4)
    after.log_metrics({"train/loss": 9.0}, step=5)
    assert [
        {name: value for name, value in row.items() if name != "step"} for row in rows(tmp_path / "metrics.csv")
    ] == [
        {"train/loss": "1.0"},
        {"val/loss": "2.0"},
        {"val/loss": "2.5"},
        {"objective/kl": "3.0"},
        {"train/loss": "9.0"},
    ]


def test_a_line_that_a_kill_cut_off_is_not_taken_for_a_row(tmp_path):
    before = MetricsFile(tmp_path)
    for step in range(12):
        before.log_metrics({"train/loss": float(step)}, step=step)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes().rstrip()[:-6])  # ",11,11.0" is ",1" now
    assert path.read_text().endswith(",1")
    MetricsFile(tmp_path, resume=True).log_metrics({"train/loss": 11.0}, step=11)
    assert [row["step"] for row in rows(path)] == [str(step) for step in range(12)]


def test_a_file_that_vanishes_begins_anew_with_its_header(tmp_path):
    file = MetricsFile(tmp_path / "run")
    file.log_metrics({"train/loss": 0.5}, step=0)
    shutil.rmtree(tmp_path / "run")
    file.log_metrics({"train/loss": 0.25}, step=1)
    assert rows(tmp_path / "run" / "metrics.csv") == [{"step": "1", "train/loss": "0.25"}]


def test_a_full_disk_is_a_message_that_names_the_file(tmp_path):
    file = MetricsFile(tmp_path)
    file.log_metrics({"train/loss": 0.5}, step=0)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"metrics\.csv must be usable, got: No space left on device"):
        file.log_metrics({"train/loss": 0.25}, step=1)


def test_a_new_run_begins_a_new_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("step\n7\n")
    MetricsFile(tmp_path).log_metrics({"train/loss": 1.0}, step=0)
    assert rows(tmp_path / "metrics.csv") == [{"step": "0", "train/loss": "1.0"}]


def test_training_logs_to_the_file_and_tensorboard_and_an_evaluation_beside_them(tmp_path):
    kinds = [type(logger) for logger in default_loggers(RunDirectory(tmp_path), "fit")]
    assert kinds == [MetricsFile, TensorBoardLogger]
    (logger,) = default_loggers(RunDirectory(tmp_path), "validate")
    logger.log_metrics({"val/loss": 1.0}, step=0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics-validate.csv"]
