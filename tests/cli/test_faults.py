"""How the command line ends when something goes wrong: its exit code, one message, and an earlier run that is kept."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("fails", "code", "message"),
    [
        ("in training", 2, "error: rows.jsonl:3: a row must have a prompt."),
        ("by diverging", 3, "error: the loss must be finite, got nan."),
        ("by an interrupt", 130, "interrupted"),
        ("by SIGTERM", 143, ""),
        ("on a full disk", 2, "error: what the run writes must be usable, got: No space left on device. Free some"),
        ("by a file that is gone", 2, "error: rows.jsonl must be usable, got: No such file or directory."),
    ],
)
def test_each_way_to_end_has_its_exit_code_and_a_message_without_a_traceback(command, capsys, fails, code, message):
    assert command("fit", f"--model.fails={fails}") == code
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not Path("runs").exists()


@pytest.mark.parametrize("fails", ["at start", "in training", "by diverging"])
def test_a_run_that_is_to_be_overwritten_is_kept_until_the_new_one_has_made_a_step(command, fails):
    command("fit", "--trainer.default_root_dir=run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert command("fit", "--trainer.default_root_dir=run", "--overwrite", f"--model.fails={fails}") in (2, 3)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert command("fit", "--trainer.default_root_dir=run", "--overwrite", "--trainer.max_steps=1") == 0
    assert not list(Path("run").glob(".*"))
    assert Path("run/metrics.csv").read_bytes() != before[Path("run/metrics.csv")]


@pytest.mark.parametrize("words", [["--trainer.max_epochs=0"], ["--trainer.limit_train_batches=0"]])
def test_a_run_without_a_step_leaves_nothing_that_the_next_one_is_refused_for(command, capsys, words):
    assert command("fit", "--trainer.default_root_dir=run", *words) == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert not Path("run").exists()
    assert command("fit", "--trainer.default_root_dir=run") == 0
    before = Path("run/metrics.csv").read_bytes()
    assert command("fit", "--trainer.default_root_dir=run", "--overwrite", *words) == 0
    assert Path("run/metrics.csv").read_bytes() == before


def test_a_resumed_run_says_line_by_line_what_differs(command, capsys):
    command("fit", "--trainer.default_root_dir=run", "--model.slope=0.25")
    capsys.readouterr()
    words = ["--trainer.default_root_dir=run", "--ckpt_path=last", "--trainer.max_epochs=2"]
    assert command("fit", *words, "--model.slope=0.5", "--data.batch_size=3") == 0
    assert (
        "lightning-rlhf: the config differs from the one that the checkpoint was trained with:\n"
        "  data.init_args.batch_size: 2 -> 3\n"
        "  model.init_args.slope: 0.25 -> 0.5\n"
        "  trainer.max_epochs: 1 -> 2\n"
    ) in capsys.readouterr().err


def test_a_run_that_is_resumed_as_it_was_says_nothing(command, capsys):
    command("fit", "--trainer.default_root_dir=run")
    capsys.readouterr()
    assert command("fit", "--trainer.default_root_dir=run", "--ckpt_path=last") == 0
    assert "differs" not in capsys.readouterr().err


def test_a_run_that_was_cut_off_before_its_first_checkpoint_begins_anew(command):
    command("fit", "--trainer.default_root_dir=whole")
    command("fit", "--trainer.default_root_dir=run")
    Path("run/checkpoints/last.ckpt").unlink()
    Path("run/samples.jsonl").write_text("of the first try")
    with pytest.warns(UserWarning, match="no last checkpoint available"):
        assert command("fit", "--trainer.default_root_dir=run", "--ckpt_path=last") == 0
    assert not Path("run/samples.jsonl").exists()
    assert Path("run/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()


@pytest.mark.parametrize("left", ["checkpoints/epoch=0-step=4.ckpt", "model/weights"])
def test_a_run_that_left_something_but_no_last_checkpoint_does_not_begin_anew(command, capsys, left):
    command("fit", "--trainer.default_root_dir=run")
    Path("run/checkpoints/last.ckpt").unlink()
    Path("run", left).parent.mkdir(exist_ok=True)
    Path("run", left).write_text("mine")
    metrics = Path("run/metrics.csv").read_bytes()
    capsys.readouterr()
    assert command("fit", "--trainer.default_root_dir=run", "--ckpt_path=last") == 2
    message = capsys.readouterr().err
    assert "ckpt_path 'last' must find a last.ckpt of the run in run, got " in message
    assert left.split("/")[0] in message
    assert Path("run", left).read_text() == "mine"
    assert Path("run/metrics.csv").read_bytes() == metrics


def test_an_evaluation_of_the_base_beside_a_trained_run_says_so(command, capsys):
    command("fit", "--trainer.default_root_dir=run")
    capsys.readouterr()
    assert command("validate", "--trainer.default_root_dir=run") == 0
    assert "this is the base as it is, before training. What the run in run has trained is --ckpt_path last" in (
        capsys.readouterr().err
    )
    assert command("validate", "--trainer.default_root_dir=run", "--ckpt_path=last") == 0
    assert "as it is" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.val_check_interval=500"], "`val_check_interval` (500) must be less than or equal to"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/lss"],
            "Early stopping conditioned on metric `val/lss` which is not available",
        ),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches must be at least 1, got 0."),
        (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must be 0 or more, or null, got -1"),
    ],
)
def test_what_the_trainer_cannot_do_is_one_message(command, capsys, words, message):
    assert command("fit", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def contents(root):
    return {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command_name", "words"),
    [
        ("fit", ["--model.fails=at the start of training"]),
        ("fit", ["--model.fails=in training"]),
        ("fit", ["--model.fails=by diverging"]),
        ("fit", ["--model.slope=0.1", "--trainer.val_check_interval=500"]),
        ("validate", ["--model.fails=in validation"]),
    ],
)
def test_what_is_refused_changes_no_file(command, command_name, words):
    command("fit", "--trainer.default_root_dir=run")
    command("validate", "--trainer.default_root_dir=run")
    before = contents("run")
    given = ["--trainer.default_root_dir=run", "--ckpt_path=last"]
    given += ["--trainer.max_epochs=2"] if command_name == "fit" else []
    assert command(command_name, *given, *words) in (2, 3)
    assert contents("run") == before


def test_a_trial_run_writes_into_no_run(command):
    command("fit", "--trainer.default_root_dir=run")
    before = contents("run")
    for name in ("fit", "validate", "predict"):
        assert command(name, "--trainer.default_root_dir=run", "--trainer.fast_dev_run=true", "--ckpt_path=last") == 0
    assert contents("run") == before


def test_a_run_stays_where_it_began_when_the_working_directory_changes(command, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("MOVES_TO", str(elsewhere))
    assert command("fit", "--trainer.default_root_dir=run", "--model.fails=by moving") == 0
    assert not list(elsewhere.iterdir())
    monkeypatch.chdir(tmp_path)
    assert {"config.yaml", "metrics.csv", "tensorboard", "checkpoints"} == {path.name for path in Path("run").iterdir()}
    words = ["--trainer.default_root_dir=run", "--ckpt_path=run/checkpoints/last.ckpt", "--model.fails=by moving"]
    assert command("predict", *words) == 0
    assert not list(elsewhere.iterdir())
    assert (tmp_path / "run/predictions.jsonl").exists()
    monkeypatch.chdir(tmp_path)
    assert command("fit", "--model.fails=by moving") == 0
    assert (tmp_path / "runs/sft-0/config.yaml").exists()
    assert not list(elsewhere.iterdir())
