"""A call that resumes a run says what changes; what it leaves out stays as the run has it."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_rlhf.cli.config_differences import config_differences
from lightning_rlhf.cli.resumed_config import argument_names, filled_in
from lightning_rlhf.errors import ModelError


def rows(path, n):
    source = {"class_path": "file", "init_args": {"path": path, "n": n}}
    return {"class_path": "Prompts", "init_args": {"source": source}}


RUN = {
    "seed_everything": 1,
    "model": {"class_path": "PPO", "init_args": {"rate": 0.1, "decay": 0.2, "rewards": [{"class_path": "length"}]}},
    "data": {
        "class_path": "Prompts",
        "init_args": {"source": {"class_path": "file", "init_args": {"path": "a", "n": 5}}},
    },
    "trainer": {"max_epochs": 3, "default_root_dir": "a"},
}
DEFAULTS = {
    "seed_everything": 0,
    "model": {"class_path": "PPO", "init_args": {"rate": 0.5, "decay": 0.0, "rewards": None}},
    "data": {
        "class_path": "Prompts",
        "init_args": {"source": {"class_path": "file", "init_args": {"path": "a", "n": 0}}},
    },
    "trainer": {"max_epochs": None, "default_root_dir": "b"},
}


def test_what_is_left_out_is_taken_from_the_run_and_what_is_given_holds():
    given = {"model": {"class_path": "PPO", "init_args": {"rate": 0.5}}, "data": DEFAULTS["data"]}
    filled = filled_in(given, DEFAULTS, RUN)
    assert filled["model"]["init_args"] == {**RUN["model"]["init_args"], "rate": 0.5}
    assert filled["data"] == DEFAULTS["data"]
    assert filled["seed_everything"] == 1
    assert filled["trainer"] == {"max_epochs": 3, "default_root_dir": "a"}  # the root is that of the call


def test_a_list_or_another_class_that_is_given_is_taken_whole():
    other = {"class_path": "hub", "init_args": {"name": "x"}}
    given = {
        "model": {"class_path": "PPO", "init_args": {"rewards": [{"class_path": "length"}, {"class_path": "regex"}]}},
        "data": {"class_path": "Prompts", "init_args": {"source": other}},
    }
    now = {**DEFAULTS, "data": given["data"]}
    filled = filled_in(given, now, RUN)
    assert filled["model"]["init_args"]["rewards"] == given["model"]["init_args"]["rewards"]
    assert filled["data"]["init_args"]["source"] == other


def test_a_run_that_is_called_as_before_is_parsed_once():
    assert filled_in({"trainer": {"max_epochs": 3}}, RUN, RUN) is None


def test_what_a_checkpoint_says_imports_nothing():
    before = {"model": {"class_path": "PPO", "init_args": {"rewards": [{"class_path": "this.Poem"}]}}}
    with pytest.raises(ModelError, match=r"must name what is imported already, got 'this.Poem'"):
        filled_in({"model": {"class_path": "PPO"}}, DEFAULTS, before)


def test_an_argument_that_an_earlier_version_did_not_have_is_listed_only_where_it_is_given():
    before, now = "model: {rate: 1, kind: null}", "model: {rate: 1, depth: 2, kind: {class_path: A}}"
    assert config_differences(before, now, set()) == ["model.kind.class_path: (not there) -> A"]
    assert "model.depth: (not there) -> 2" in config_differences(before, now, {"model.depth"})
    assert set(argument_names({"model": {"rewards": [{"n": 1}]}})) >= {"model", "model.rewards.0.n"}


def test_a_resuming_call_keeps_and_lists_what_it_should(command, capsys):
    root = "--trainer.default_root_dir=run"
    command("fit", root, "--model.slope=0.25", "--data.batch_size=3", "--seed_everything=5", "--trainer.max_epochs=1")
    capsys.readouterr()
    words = ["--model=StandInStage", "--data=StandInData", root, "--ckpt_path=last", "--trainer.max_epochs=2"]
    assert command("fit", *words, "--model.slope=0.5", bare=True) == 0
    printed = capsys.readouterr().err
    listed = printed.partition("the config differs from the one that the checkpoint was trained with:\n")[2]
    lines = [line for line in listed.splitlines() if line.startswith("  ")]
    assert lines[:2] == ["  model.init_args.slope: 0.25 -> 0.5", "  trainer.max_epochs: 1 -> 2"]
    assert " -> " not in "".join(lines[2:])
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["seed_everything"] == 5
    assert config["data"]["init_args"]["batch_size"] == 3
    assert config["trainer"]["accelerator"] == "cpu"
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["slope"] == 0.5


def test_what_watches_a_run_and_where_it_runs_is_of_the_call_also_when_its_class_is_gone(command, capsys, monkeypatch):
    Path("watcher.py").write_text("from lightning.pytorch.callbacks import Callback\n\nclass Watcher(Callback): ...\n")
    words = ["--trainer.callbacks+=watcher.Watcher", "--trainer.devices=1", "--trainer.profiler=simple"]
    assert command("fit", "--trainer.default_root_dir=run", *words) == 0
    Path("watcher.py").unlink()
    monkeypatch.delitem(sys.modules, "watcher")
    resume = ["--model=StandInStage", "--data=StandInData", "--trainer.default_root_dir=run", "--ckpt_path=last"]
    capsys.readouterr()
    assert command("fit", *resume, "--trainer.max_epochs=2", bare=True) == 0
    printed = capsys.readouterr().err
    assert "trainer.callbacks.0.class_path: watcher.Watcher -> (not there)" in printed
    assert "trainer.devices: 1 -> auto" in printed
    trainer = yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]
    assert [trainer[name] for name in ("callbacks", "devices", "profiler")] == [None, "auto", None]
    assert trainer["accelerator"] == "cpu"
