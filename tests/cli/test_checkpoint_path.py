"""A checkpoint that cannot be used is one message, before anything is built, and changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_rlhf.cli.checkpoint_path import refused_checkpoint

RUN = "--trainer.default_root_dir=run"
KEEPING = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=run/checkpoints"]
KEEPING += ["--trainer.callbacks.save_last=true"]


def files(root):
    return {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


@pytest.fixture
def trained(command, capsys):
    """A run with a checkpoint of another callback, and its last one."""
    assert command("fit", RUN, *KEEPING) == 0
    capsys.readouterr()
    return Path("run/checkpoints/last.ckpt")


def flipped(data):
    """Another weight."""
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    place = data.index(state["line.weight"].numpy().tobytes())
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("name", ["last", "run/checkpoints/last.ckpt"])
@pytest.mark.parametrize(
    "spoil",
    [lambda data: b"", lambda data: data[:-5], lambda data: bytes(len(data)), lambda data: b"epoch: 1\n", flipped],
    ids=["empty", "cut", "zeros", "text", "flipped"],
)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_offered(command, capsys, trained, name, spoil):
    trained.write_bytes(spoil(trained.read_bytes()))
    before = files("run")
    assert command("fit", RUN, f"--ckpt_path={name}", "--model.fails=at start") == 2  # which never gets that far
    said = capsys.readouterr().err
    assert "ckpt_path must be a whole checkpoint, got '" in said
    assert "run/checkpoints/last.ckpt', which is " in said
    assert "run/checkpoints/epoch=0-step=3.ckpt: go on from there with --ckpt_path " in said
    assert "Traceback" not in said
    assert files("run") == before


def test_what_is_offered_works(command, trained):
    trained.write_bytes(b"")
    words = ["--ckpt_path=run/checkpoints/epoch=0-step=3.ckpt", "--trainer.max_epochs=2"]
    assert command("fit", RUN, *KEEPING, *words) == 0


def test_without_another_one_beginning_anew_is_offered(command, capsys):
    command("fit", RUN)
    Path("run/checkpoints/last.ckpt").write_bytes(b"")
    assert command("fit", RUN, "--ckpt_path=last") == 2
    assert "No other one is whole: begin anew, with --overwrite and without --ckpt_path." in capsys.readouterr().err
    assert command("fit", RUN, "--overwrite") == 0


def test_weights_alone_are_evaluated_and_not_trained_on(command, capsys):
    words = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_weights_only=true"]
    command("fit", RUN, *words, "--trainer.callbacks.dirpath=run/checkpoints")
    capsys.readouterr()
    path = "--ckpt_path=run/checkpoints/epoch=0-step=3.ckpt"
    assert command("fit", RUN, path, "--model.fails=at start") == 2
    said = capsys.readouterr().err
    assert "must be a checkpoint with the state of the training, got 'run/checkpoints/epoch=0-step=3.ckpt'" in said
    assert command("validate", RUN, path) == 0


def test_a_file_of_torch_that_is_no_checkpoint_is_named(command, capsys):
    torch.save({"line.weight": torch.ones(1)}, "weights.ckpt")
    for name in ("fit", "validate"):
        assert command(name, RUN, "--ckpt_path=weights.ckpt") == 2
        assert "must be a checkpoint that Lightning wrote, got 'weights.ckpt'" in capsys.readouterr().err


def test_a_run_that_was_killed_between_its_first_checkpoint_and_its_last_goes_on_from_the_first(command, trained):
    """A callback with `save_last` writes one after the other."""
    trained.unlink()
    assert command("fit", RUN, "--ckpt_path=last", *KEEPING, "--trainer.max_epochs=2") == 0
    assert torch.load(trained, weights_only=True)["global_step"] == 6


def test_a_checkpoint_is_not_blamed_for_weights_that_fail_to_load_elsewhere():
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict") as caught:
        nn.Linear(1, 1).load_state_dict({"other": torch.zeros(1)})
    assert refused_checkpoint(caught.value) is None
