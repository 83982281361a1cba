import csv

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_rlhf.cli.loggers import MetricsFile, default_loggers
from lightning_rlhf.cli.run_directory import RunDirectory


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
