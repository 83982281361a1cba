import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_rlhf.version import __version__


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_fit_leaves_config_metrics_and_the_last_checkpoint_in_a_numbered_run(command, capsys):
    assert command("fit") == 0
    root = Path("runs/sft-0")
    assert {path.name for path in root.iterdir()} == {"config.yaml", "metrics.csv", "tensorboard", "checkpoints"}
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["last.ckpt"]
    assert [row["step"] for row in rows(root / "metrics.csv") if row["train/loss"]] == ["0", "1", "2"]
    printed = capsys.readouterr().out
    assert "the run is in runs/sft-0" in printed
    assert "last validation: val/loss" in printed


def test_each_fit_takes_the_next_number(command):
    for number in range(2):
        assert command("fit", "--trainer.max_steps=1") == 0
        assert Path(f"runs/sft-{number}/config.yaml").exists()


def test_the_saved_config_says_what_it_was_made_with_and_runs_again(command):
    command("fit", "--model.slope=0.25")
    text = Path("runs/sft-0/config.yaml").read_text()
    assert text.startswith(f"# lightning-rlhf=={__version__}\n# lightning==")
    config = yaml.safe_load(text)
    assert config["model"]["init_args"]["slope"] == 0.25
    assert config["trainer"]["default_root_dir"] == "runs/sft-0"
    assert "overwrite" not in config
    assert command("fit", "--config=runs/sft-0/config.yaml", "--trainer.default_root_dir=again", bare=True) == 0
    assert rows("again/metrics.csv") == rows("runs/sft-0/metrics.csv")
    assert command("test", "--config=again/config.yaml", "--ckpt_path=last", bare=True) == 0


def test_the_checkpoint_does_not_override_what_the_user_says(command):
    command("fit", "--model.slope=0.25")
    checkpoint = "runs/sft-0/checkpoints/last.ckpt"
    assert command("fit", "--model.loss=absolute", "--trainer.max_epochs=2", f"--ckpt_path={checkpoint}") == 0
    assert yaml.safe_load(Path("runs/sft-0/config.yaml").read_text())["model"]["init_args"]["loss"] == "absolute"


def test_a_run_that_is_there_is_refused(command, capsys):
    command("fit", "--trainer.default_root_dir=run")
    before = Path("run/metrics.csv").read_text()
    assert command("fit", "--trainer.default_root_dir=run") == 2
    message = capsys.readouterr().err
    assert "trainer.default_root_dir must not hold another run, got run." in message
    assert "--ckpt_path last" in message
    assert "--overwrite" in message
    assert Path("run/metrics.csv").read_text() == before


def test_a_run_is_overwritten_when_asked_for(command):
    command("fit", "--trainer.default_root_dir=run", "--trainer.max_epochs=2")
    Path("run/notes.txt").write_text("mine")
    Path("run/samples.jsonl").write_text("old\n")
    assert command("fit", "--trainer.default_root_dir=run", "--overwrite") == 0
    assert {row["epoch"] for row in rows("run/metrics.csv")} == {"0"}
    assert not Path("run/samples.jsonl").exists()
    assert Path("run/notes.txt").read_text() == "mine"


def test_a_run_is_not_removed_for_one_that_cannot_start(command):
    command("fit", "--trainer.default_root_dir=run")
    assert command("fit", "--trainer.default_root_dir=run", "--overwrite", "--model.fails=at start") == 2
    assert Path("run/checkpoints/last.ckpt").exists()


def test_someone_elses_folder_is_never_overwritten(command, capsys):
    Path("model").mkdir()
    assert command("fit", "--trainer.default_root_dir=.", "--overwrite") == 2
    assert "Remove what is in it yourself" in capsys.readouterr().err
    assert Path("model").is_dir()


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.default_root_dir=runs/sft-0", "--ckpt_path=last"],
        ["--trainer.default_root_dir=runs/sft-0", "--ckpt_path=runs/sft-0/checkpoints/last.ckpt"],
        ["--ckpt_path=runs/sft-0/checkpoints/last.ckpt"],
    ],
)
def test_a_run_is_resumed_in_its_own_root(command, words):
    command("fit", "--trainer.max_epochs=2", "--trainer.default_root_dir=whole")
    command("fit", "--trainer.max_epochs=1")
    assert command("fit", "--trainer.max_epochs=2", *words) == 0
    assert rows("runs/sft-0/metrics.csv") == rows("whole/metrics.csv")
    weights = [torch.load(f"{root}/checkpoints/last.ckpt")["state_dict"] for root in ("runs/sft-0", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not Path("runs/sft-1").exists()


def test_a_resumed_run_is_described_by_its_newest_config(command):
    command("fit")
    assert command("fit", "--trainer.max_epochs=2", "--ckpt_path=runs/sft-0/checkpoints/last.ckpt") == 0
    assert yaml.safe_load(Path("runs/sft-0/config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_a_checkpoint_that_cannot_be_resumed_leaves_the_run_as_it_was(command):
    command("fit")
    before = {path: path.read_bytes() for path in Path("runs/sft-0").glob("*.*")}
    assert command("fit", "--model=OtherStage", "--ckpt_path=runs/sft-0/checkpoints/last.ckpt") == 2
    assert {path: path.read_bytes() for path in Path("runs/sft-0").glob("*.*")} == before


def test_a_job_that_is_started_again_says_the_same_command_each_time(command):
    words = ["--trainer.default_root_dir=job", "--ckpt_path=last"]
    with pytest.warns(UserWarning, match="no last checkpoint available"):
        assert command("fit", *words) == 0
    assert command("fit", *words, "--trainer.max_epochs=2") == 0
    assert {row["epoch"] for row in rows("job/metrics.csv")} == {"0", "1"}


def test_an_evaluation_leaves_the_run_it_looks_at_as_it_is(command):
    command("fit")
    before = {path: path.read_bytes() for path in Path("runs/sft-0").glob("*.*")}
    for name in ("validate", "test", "predict"):
        assert command(name, "--ckpt_path=runs/sft-0/checkpoints/last.ckpt") == 0
    assert {path: path.read_bytes() for path in before} == before
    assert rows("runs/sft-0/metrics-test.csv")[0]["test/loss"]
    assert yaml.safe_load(Path("runs/sft-0/config-test.yaml").read_text())["ckpt_path"]
    assert [path.name for path in Path("runs").iterdir()] == ["sft-0"]


def test_predict_writes_the_rows_in_order(command, capsys):
    assert command("predict", "--trainer.default_root_dir=out") == 0
    lines = Path("out/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert "6 predictions are in out/predictions.jsonl" in capsys.readouterr().out


def test_the_users_own_logger_and_checkpoints_replace_ours_but_for_the_file_of_metrics(command):
    words = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere"]
    words += [
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.dirpath=kept",
        "--trainer.callbacks.monitor=val/loss",
    ]
    assert command("fit", *words) == 0
    assert {path.name for path in Path("runs/sft-0").iterdir()} == {"config.yaml", "metrics.csv"}
    assert [row["step"] for row in rows("runs/sft-0/metrics.csv") if row["train/loss"]] == ["0", "1", "2"]
    assert list(Path("elsewhere").rglob("metrics.csv"))
    assert [path.suffix for path in Path("kept").iterdir()] == [".ckpt"]


def test_a_fast_dev_run_leaves_nothing(command):
    assert command("fit", "--trainer.fast_dev_run=true") == 0
    assert not Path("runs").exists()


def test_the_arguments_of_the_process_stay_as_they_are(command, monkeypatch):
    words = ["lightning-rlhf", "fit", "--model=StandInStage"]
    monkeypatch.setattr(sys, "argv", list(words))
    assert command("fit") == 0
    assert sys.argv == words


def test_a_class_in_the_working_directory_is_found_by_class_path(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(Path.cwd()))])
    Path("own_stage.py").write_text("from cli_standin import StandInStage\n\n\nclass Mine(StandInStage):\n    pass\n")
    assert command("fit", "--model=own_stage.Mine") == 0
    assert sys.path[-1] == str(Path.cwd())


def test_a_bug_keeps_its_traceback(command):
    with pytest.raises(ZeroDivisionError, match="a bug in the stage") as caught:
        command("fit", "--model.fails=by a bug")
    assert "cli_standin.py" in str(caught.traceback[-1].path)
    with pytest.raises(ZeroDivisionError, match="a bug in training"):
        command("fit", "--model.fails=by a bug in training")


def test_an_interrupt_exits_with_130_and_the_next_one_still_works(command, capsys):
    before = signal.getsignal(signal.SIGINT)
    assert command("fit", "--model.fails=by an interrupt") == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted" in capsys.readouterr().err


def test_a_checkpoint_of_another_stage_is_named_as_the_mistake(command, capsys):
    command("fit")
    words = ["--model=OtherStage", "--data=StandInData", "--trainer.max_epochs=1"]
    words += ["--ckpt_path=runs/sft-0/checkpoints/last.ckpt", "--trainer.default_root_dir=other"]
    assert command("fit", *words, bare=True) == 2
    assert "ckpt_path must be a checkpoint of this module" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"no checkpoint", b"seed_everything: 1\ntrainer: {max_epochs: 2}\n", b"", b"PK\x03\x04"]
)
def test_a_file_that_is_no_checkpoint_is_named_as_the_mistake(command, capsys, content):
    Path("mine.ckpt").write_bytes(content)
    assert command("fit", "--ckpt_path=mine.ckpt") == 2
    assert "ckpt_path must be a whole checkpoint, got 'mine.ckpt'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_folder_that_is_no_checkpoint_is_named_as_the_mistake(command, capsys):
    command("fit")
    assert command("test", "--ckpt_path=runs/sft-0") == 2
    assert "ckpt_path must be a whole checkpoint, got 'runs/sft-0'" in capsys.readouterr().err


def test_noise_is_left_out_and_advertisements_are_not_printed(command, capfd, recwarn):
    command("fit")
    assert "Tip" not in capfd.readouterr().err
    assert not [warning for warning in recwarn if "num_workers" in str(warning.message)]


def test_a_fit_that_fails_before_its_first_step_does_not_stand_in_the_way_of_the_next(command):
    assert command("fit", "--trainer.default_root_dir=run", "--model.fails=in training") == 2
    assert not Path("run").exists()
    assert command("fit", "--trainer.default_root_dir=run") == 0


def test_the_last_checkpoint_is_also_written_in_the_middle_of_an_epoch(command):
    words = ["--trainer.val_check_interval=1", "--trainer.max_steps=1"]
    assert command("fit", *words) == 0
    assert torch.load("runs/sft-0/checkpoints/last.ckpt")["global_step"] == 1


def test_the_real_stages_train_test_and_predict_from_the_command_line(tmp_path, monkeypatch, capsys):
    from lightning_rlhf.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    row = '{{"prompt": "count to {0}", "response": "{0}"}}\n'
    Path("rows.jsonl").write_text("".join(row.format(number) for number in range(24)))
    words = ["--model=SFTModule", "--model.base=tiny", "--model.base.hidden_size=16", "--model.max_response_length=4"]
    words += ["--data=DemonstrationData", "--data.source=file", "--data.source.path=rows.jsonl"]
    words += ["--data.source.val_fraction=0.3", "--data.source.test_fraction=0.3", "--data.max_length=64"]
    words += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    assert main(["fit", *words]) == 0
    root = Path("runs/sft-0")
    left = {path.name for path in root.iterdir()}
    assert left >= {"config.yaml", "metrics.csv", "samples.jsonl", "checkpoints", "model", "tensorboard"}
    assert "the trained model in runs/sft-0/model" in capsys.readouterr().out
    again = [f"--config={root}/config.yaml", "--ckpt_path=last"]
    assert main(["test", *again]) == 0
    assert rows(root / "metrics-test.csv")[0]["test/perplexity"]
    assert main(["predict", *again]) == 0
    assert set(json.loads((root / "predictions.jsonl").read_text().splitlines()[0])) == {"prompt", "response"}


@pytest.mark.slow
@pytest.mark.parametrize("launch", [["-m", "lightning_rlhf"], ["script.py"]], ids=["module", "script"])
def test_two_processes_share_one_root_and_read_the_same_arguments(tmp_path, launch):
    Path(tmp_path / "script.py").write_text(
        "import sys\nfrom lightning_rlhf.cli.main import main\n\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    row = '{{"prompt": "count to {0}", "response": "{0}"}}\n'
    (tmp_path / "rows.jsonl").write_text("".join(row.format(number) for number in range(8)))
    words = ["fit", "--model=SFTModule", "--model.base=tiny", "--data=DemonstrationData", "--data.source=file"]
    words += ["--data.source.path=rows.jsonl", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    words += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    ended = subprocess.run([sys.executable, *launch, *words], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sft-0"]
    assert len(rows(tmp_path / "runs/sft-0/metrics.csv")) == 1
