import os
from pathlib import Path

import pytest

from lightning_rlhf.checkpoints.root_choice import run_directory_for_evaluation, run_directory_for_training
from lightning_rlhf.checkpoints.run_directory import handed_down, inherited
from lightning_rlhf.checkpoints.run_files import last_checkpoint, root_of_checkpoint
from lightning_rlhf.errors import RunDirectoryError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(root):
    """A root as a finished run leaves it."""
    (Path(root) / "checkpoints").mkdir(parents=True)
    (Path(root) / "checkpoints" / "last.ckpt").touch()
    (Path(root) / "config.yaml").write_text("# lightning-rlhf==0.1.0\nmodel: null\n")
    return Path(root)


def test_numbers_go_up_from_the_highest_that_is_there():
    a_run("runs/ppo-7")
    Path("runs/ppo-old").mkdir()
    assert run_directory_for_training(None, "ppo", None, overwrite=False).shown == Path("runs/ppo-8")
    assert run_directory_for_training(None, "sft", None, overwrite=False).path == Path("runs/sft-0").absolute()


def test_a_dry_run_makes_and_refuses_nothing():
    a_run("run")
    directory = run_directory_for_training("run", "sft", None, overwrite=False, dry_run=True)
    directory.withdraw()
    assert last_checkpoint(Path("run"))
    run_directory_for_training(None, "sft", None, overwrite=False, dry_run=True)
    assert not Path("runs").exists()


def test_a_directory_with_other_things_in_it_is_taken():
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    assert run_directory_for_training("mine", "sft", None, overwrite=False).path == Path("mine").absolute()


def test_another_runs_checkpoint_does_not_open_a_root_that_holds_a_run():
    a_run("one")
    other = a_run("two") / "checkpoints" / "last.ckpt"
    with pytest.raises(RunDirectoryError, match="must not hold another run, got one"):
        run_directory_for_training("one", "sft", str(other), overwrite=False)
    assert not run_directory_for_training("three", "sft", str(other), overwrite=False).resumes


def test_a_run_is_known_by_its_checkpoint():
    checkpoint = str(a_run("run") / "checkpoints" / "last.ckpt")
    assert root_of_checkpoint(checkpoint) == Path("run")
    assert run_directory_for_training(None, "sft", checkpoint, overwrite=False).resumes
    assert run_directory_for_evaluation(None, "sft", checkpoint, "test").path == Path("run").absolute()
    assert root_of_checkpoint("elsewhere/last.ckpt") is None


def test_only_what_a_run_wrote_is_removed_to_overwrite_it():
    a_run("run")
    Path("run/notes.txt").touch()
    directory = run_directory_for_training("run", "sft", None, overwrite=True)
    assert last_checkpoint(Path("run"))
    directory.begin()
    assert not last_checkpoint(Path("run"))
    directory.let_go()
    directory.release()
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"]


def test_a_run_that_was_to_be_overwritten_is_back_when_the_new_one_makes_no_step():
    a_run("run")
    directory = run_directory_for_training("run", "sft", None, overwrite=True)
    directory.begin()
    Path("run/config.yaml").write_text("# lightning-rlhf==0.1.0\nmodel: new\n")
    directory.withdraw()
    directory.release()
    assert {path.name for path in Path("run").iterdir()} == {"config.yaml", "checkpoints"}
    assert "new" not in Path("run/config.yaml").read_text()


def test_a_run_is_back_also_where_the_one_that_was_to_overwrite_it_was_killed():
    a_run("run")
    run_directory_for_training("run", "sft", None, overwrite=True).begin()
    Path("run/config.yaml").write_text("# lightning-rlhf==0.1.0\nmodel: new\n")
    assert run_directory_for_training("run", "sft", "last", overwrite=False).resumes
    assert last_checkpoint(Path("run"))
    assert "new" not in Path("run/config.yaml").read_text()


def test_the_last_checkpoint_is_the_newest_also_of_those_that_slurms_requeue_left():
    root = a_run("run")
    requeued = root / "hpc_ckpt_2.ckpt"
    for number, path in enumerate([root / "hpc_ckpt_1.ckpt", root / "checkpoints" / "last.ckpt", requeued]):
        path.touch()
        os.utime(path, ns=(number, number))
    assert last_checkpoint(root) == requeued
    os.utime(root / "checkpoints" / "last.ckpt", ns=(9, 9))
    assert last_checkpoint(root) == root / "checkpoints" / "last.ckpt"


def test_a_directory_that_was_made_for_nothing_goes_again():
    directory = run_directory_for_training(None, "sft", None, overwrite=False)
    directory.discard_if_empty()
    assert not Path("runs").exists()


def test_a_run_that_failed_before_its_first_step_leaves_room_for_the_next_try():
    directory = run_directory_for_training("run", "sft", None, overwrite=False)
    directory.begin()
    (directory.path / "config.yaml").write_text("# lightning-rlhf==0.1.0\n")
    directory.withdraw()
    assert not Path("run").exists()


def test_a_resumed_run_is_never_withdrawn():
    a_run("run")
    run_directory_for_training("run", "sft", "last", overwrite=False).withdraw()
    assert last_checkpoint(Path("run"))


def test_a_file_in_place_of_the_directory_is_refused():
    Path("runs").touch()
    with pytest.raises(RunDirectoryError, match="runs must be a directory"):
        run_directory_for_training(None, "sft", None, overwrite=False)
    with pytest.raises(RunDirectoryError, match="must be a directory that can be written"):
        run_directory_for_training("runs", "sft", None, overwrite=False)


def test_started_processes_find_the_root_in_their_environment():
    assert inherited() is None
    with handed_down(Path("runs/sft-3")):
        assert inherited() == Path("runs/sft-3")
    assert inherited() is None
