"""A run that was killed goes on, whatever half-written things the kill left in its folders."""

from pathlib import Path

import pytest

HALF = [
    "checkpoints/..last.ckpt.new.part",
    "checkpoints/.last.ckpt.new/__0_0.distcp",  # of sharded weights
    "checkpoints/.epoch=0-step=4.ckpt.part",
    ".hpc_ckpt_1.ckpt.part",
    ".model.new/weights",
    ".model.gone/weights",
    ".config.yaml.part",
    ".kl-scores.csv.part",
]
LEFT = {
    "a checkpoint whose step is not logged": ["checkpoints/.last.ckpt.new"],
    "the same of an earlier release": ["checkpoints/.last.ckpt", "checkpoints/..last.ckpt.part"],
    "half of all that is written": HALF,
    "a link to a checkpoint that is gone": ["checkpoints/last.ckpt -> epoch=0-step=3.ckpt"],
}


def leave(root, left):
    for name in left:
        name, _, target = name.partition(" -> ")
        (root / name).parent.mkdir(exist_ok=True)
        if target:
            (root / name).symlink_to(target)
        else:
            (root / name).write_bytes(b"half")


def hidden(root):
    return [str(path) for path in root.rglob(".*")]


@pytest.mark.parametrize("left", list(LEFT.values()), ids=list(LEFT))
def test_a_run_that_was_killed_around_its_first_checkpoint_begins_anew(command, left):
    command("fit", "--trainer.default_root_dir=run")
    expected = Path("run/metrics.csv").read_bytes()
    Path("run/checkpoints/last.ckpt").unlink()
    leave(Path("run"), left)
    with pytest.warns(UserWarning, match="no last checkpoint available"):
        assert command("fit", "--trainer.default_root_dir=run", "--ckpt_path=last") == 0
    assert hidden(Path("run")) == []
    assert Path("run/checkpoints/last.ckpt").is_file()
    assert Path("run/metrics.csv").read_bytes() == expected


@pytest.mark.parametrize("left", list(LEFT.values())[1:3], ids=list(LEFT)[1:3])
def test_a_run_that_was_killed_around_a_later_checkpoint_goes_on_from_the_last_whole_one(command, capsys, left):
    command("fit", "--trainer.default_root_dir=run")
    leave(Path("run"), left)
    assert command("fit", "--trainer.default_root_dir=run", "--ckpt_path=last", "--trainer.max_epochs=2") == 0
    assert "trainer.max_epochs: 1 -> 2" in capsys.readouterr().err
    assert hidden(Path("run")) == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_folder_that_was_being_replaced_is_whole_when_the_run_goes_on(command, is_whole):
    """A kill between two renames: of a model, here, that somebody may be waiting for."""
    command("fit", "--trainer.default_root_dir=run")
    Path("run/.model.old").mkdir()
    Path("run/.model.old/weights").write_text("old")
    if is_whole:
        Path("run/.model.new").mkdir()
        Path("run/.model.new/weights").write_text("new")
    assert command("fit", "--trainer.default_root_dir=run", "--ckpt_path=last") == 0
    assert Path("run/model/weights").read_text() == ("new" if is_whole else "old")
    assert hidden(Path("run")) == []


def test_leftovers_in_a_folder_of_a_callback_are_cleared_as_well(command):
    words = [
        "--trainer.default_root_dir=run",
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.dirpath=kept",
    ]
    Path("kept").mkdir()
    Path("kept/.epoch=0-step=3.ckpt.part").touch()
    Path("kept/.notes.part").touch()
    assert command("fit", "--trainer.default_root_dir=run", *words) == 0
    assert hidden(Path("kept")) == ["kept/.notes.part"]


def test_a_dry_run_and_an_evaluation_leave_leftovers_where_they_are(command):
    command("fit", "--trainer.default_root_dir=run")
    leave(Path("run"), ["checkpoints/.last.ckpt.new"])
    assert command("fit", "--trainer.default_root_dir=run", "--trainer.fast_dev_run=true") == 0
    assert command("validate", "--trainer.default_root_dir=run", "--ckpt_path=last") == 0
    assert hidden(Path("run")) == ["run/checkpoints/.last.ckpt.new"]
