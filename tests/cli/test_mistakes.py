"""What a user reads after a mistake: one message, exit 2, and nothing left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_rlhf.cli.main import main

CONFIG = "model:\n  class_path: StandInStage\n  init_args:\n    {model}\ndata:\n  class_path: StandInData\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model=StandInStag"],
            "got 'StandInStag'. Did you mean StandInStage?",
        ),
        (["--model=my.module.Stage"], "got 'my.module.Stage': No module named 'my'."),
        (["--model=cli_standin.Nope"], "got 'cli_standin.Nope': module 'cli_standin' has no attribute 'Nope'."),
        (
            ["--model.rewards+=lenth"],
            "model.rewards: reward function must be one of ",
        ),
        (
            ["--model.rewards+=length", "--model.rewards.targt=3"],
            "model.rewards: length must be given options that it has",
        ),
        (["--data.template=alpca"], "got 'alpca'. Did you mean alpaca?"),
        (["--model.slop=3"], "got 'slop'. Did you mean slope? See lightning-rlhf fit --model.help StandInStage."),
        (["--model.slope=x"], "model.slope must be float, got 'x'."),
        (["--model.slope=.inf"], "error: model.slope must be a finite number, got inf."),
        (
            ["--model.rewards+=cli_standin.Sloping", "--model.rewards.slope=.nan"],
            "error: model.rewards.0.slope must be a finite number, got nan.",
        ),
        (["--model.loss=squard"], "model.loss must be one of squared, absolute, got 'squard'. Did you mean squared?"),
        (["--trainer.max_epoch=3"], "got '--trainer.max_epoch=3'. Did you mean trainer.max_epochs"),
        (["--trainer.max_epochs=x"], "trainer.max_epochs must be int or null, got 'x'."),
        (["--trainer.max_epochs"], "--trainer.max_epochs: expected one argument"),
        (["--modle.x=3"], "got '--modle.x=3'. Did you mean model?"),
        (["more"], "every argument must be an option (--name value), got 'more'."),
        (["--trainer.callbacks+=EarlyStoping"], "Did you mean EarlyStopping?"),
        (["--trainer.accelerator=abacus"], "invalid accelerator name: `accelerator='abacus'`"),
        (["--seed_everything=abc"], "seed_everything must be bool or int, got 'abc'."),
        (["--seed_everything=-3"], "seed_everything must be a number that every generator takes: -3"),
        (["--ckpt_path=none.ckpt"], "ckpt_path must be 'last' or a checkpoint's file, got 'none.ckpt'"),
        (["--ckpt_path=s3://bucket/a.ckpt"], "ckpt_path must be a file of this machine, got 's3://bucket/a.ckpt'."),
        (
            ["--trainer.default_root_dir=~no-such-user/x"],
            "that the file system takes, got '~no-such-user",
        ),
        ([f"--trainer.default_root_dir={'x' * 300}"], "with a name of over 255 bytes."),
        ([f"--trainer.default_root_dir={'x/' * 3000}"], "must be a path that the file system takes"),
        (["--trainer.max_epochs=" + "9" * 5000], "must hold numbers that fit, got one of 5,000 digits"),
        (["--trainer.callbacks=&x [*x]"], "must end, got the alias *x within what it stands for."),
        (
            ["--trainer.callbacks+=BackboneFinetuning"],
            "must fit the stage and its data: 'StandInStage' object has no attribute 'backbone'",
        ),
        (
            ["--model.rewards+=function", "--model.rewards.path=cli_standin:Sloping.__init__.__globals__"],
            "which reaches into Python's own names",
        ),
        (["--ckpt_path=last"], "ckpt_path 'last' must come with trainer.default_root_dir"),
        (["--model.fails=at start"], "error: base must be given, got nothing."),
        (["--trainer.default_root_dir=/dev/null"], "trainer.default_root_dir /dev/null must be a directory"),
        (["--model.help", "StandInStag"], "Did you mean StandInStage?"),
        (["--model.rewards.help", "lenth"], "got 'lenth'. Did you mean length?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_message(command, capsys, words, message):
    assert command("fit", *words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") <= 3
    assert "Traceback" not in printed.err
    assert "usage:" not in printed.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CONFIG.replace("{model}", "bse: tiny"),
            "StandInStage must be given options that it has, got 'bse'. Did you mean base?",
        ),
        (CONFIG.replace("{model}", "slope: [3]"), "model.slope must be float, got '[3]'."),
        (CONFIG.replace("{model}", "rewards: [lenth]"), "model.rewards: reward function must be one of"),
        (
            CONFIG.replace("{model}", "rewards: [{class_path: length, init_args: {targt: 3}}]"),
            "model.rewards: length must be given options that it has, got 'targt'. Did you mean target?",
        ),
        (CONFIG.replace("{model}", "base: tiny") + "trainer: {max_epoch: 3}\n", "Did you mean trainer.max_epochs"),
        (CONFIG.replace("{model}", "base: tiny") + "modle: 3\n", "got 'modle'. Did you mean model?"),
        (
            "model: {base: x}\ndata: StandInData\n",
            "model must name its class (class_path: Name, init_args: ...), got 'base'",
        ),
        (
            "fit:\n  model: StandInStage\n",
            "every option must be one that fit has, got 'fit.model'. Did you mean model?",
        ),
        ("data: StandInData\n", "model must be given, got nothing. Offered: model: StandInStage, OtherStage"),
        ("model:\n  a: [1\n b: 2\n", "wrong.yaml must be YAML, got text that is not"),
        ("- 3\n", "wrong.yaml must be a mapping of options, got '- 3'."),
        ("\xff\xfe", "wrong.yaml must be UTF-8 text"),
        (None, "config: File does not exist"),
    ],
)
def test_a_mistake_in_a_config_is_one_clear_message(command, capsys, text, message):
    if text is not None:
        Path("wrong.yaml").write_bytes(text.encode("latin-1"))
    assert command("fit", "--config=wrong.yaml", bare=True) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") <= 2
    assert "usage:" not in printed.err


def test_a_mistake_that_shows_in_training_is_one_clear_message(command, capsys):
    assert command("fit", "--model.fails=in training") == 2
    assert "error: rows.jsonl:3: a row must have a prompt." in capsys.readouterr().err


def test_options_before_their_class_are_told_to_come_after_it(capsys):
    assert main(["fit", "--model.learning_rate=1", "--model=SFTModule"]) == 2
    assert "--model must name its class before its options" in capsys.readouterr().err


def test_a_config_of_aliases_of_aliases_is_refused_at_once(command, capsys, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert command("fit", "--config=bomb.yaml") == 2
    assert "bomb.yaml must hold at most 100,000 values, got more" in capsys.readouterr().err


def test_a_nul_in_the_root_is_one_message(command, capsys, tmp_path):
    (tmp_path / "nul.yaml").write_text('trainer:\n  default_root_dir: "a\\0b"\n')
    assert command("fit", "--config=nul.yaml") == 2
    assert r"got 'a\x00b' with a NUL in it." in capsys.readouterr().err


def test_a_callback_with_an_enumeration_as_its_default_is_saved_and_trains(command):
    assert command("fit", "--trainer.callbacks+=Timer", "--trainer.default_root_dir=timed") == 0
    assert "interval: step" in Path("timed/config.yaml").read_text()


def test_a_number_without_end_that_is_a_classs_own_default_is_its_authors(command):
    assert command("fit", "--model.rewards+=cli_standin.Sloping") == 0


def test_an_evaluation_of_the_last_checkpoint_needs_one(command, capsys):
    assert command("test", "--ckpt_path=last", "--trainer.default_root_dir=empty") == 2
    assert "must find checkpoints/last.ckpt" in capsys.readouterr().err
    assert not Path("empty").exists()


@pytest.mark.long
def test_the_process_of_a_mistake_exits_with_2(tmp_path):
    words = ["-m", "lightning_rlhf", "fit", "--model=Nothing"]
    ended = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "PPOModule, RewardModule, SFTModule, or a class path, got 'Nothing'" in ended.stderr
    assert "Traceback" not in ended.stderr
