"""Whatever operation on files was the last one, the next start finds one whole run."""

import itertools
import os
from pathlib import Path

import pytest

from lightning_rlhf.checkpoints.root_choice import run_directory_for_training
from lightning_rlhf.errors import RunDirectoryError

_OPERATIONS = ("mkdir", "rename", "replace", "rmdir", "unlink", "link")


class Killed(BaseException):
    """Not caught by anything that would still do something."""


class Kill:
    """From the `count`-th operation on files that changes something, none is done any more: the process is dead."""

    def __init__(self, monkeypatch, count):
        self.left = count
        for name in _OPERATIONS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, operation):
        def called(*args, **kwargs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return operation(*args, **kwargs)

        return called


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


NAMES = ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "model/rlhf.json", "predictions.jsonl")


def write_run(name, files=NAMES):
    for file in files:
        path = Path("run", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# lightning-rlhf==0.1.0 {name}" if file == "config.yaml" else name)
    Path("run/notes.txt").write_text("mine")


def found():
    """What is in the root: the files of a run, each with the name of the run that wrote it."""
    root = Path("run")
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".fit.lock")]
    return {str(path.relative_to(root)): path.read_text().split()[-1] for path in files}


def whole(name):
    return dict.fromkeys(NAMES, name) | {"notes.txt": "mine"}


def start(**options):
    """A later start, as its first act, which is then over."""
    directory = run_directory_for_training("run", "sft", "last", overwrite=False, **options)
    directory.release()
    return directory


def at_each_operation(monkeypatch, act):
    """The states that are left when `act` is killed at each of its operations, in turn."""
    for count in itertools.count():
        write_run("old")
        with monkeypatch.context() as patched:
            kill = Kill(patched, count)
            try:
                act()
            except Killed:
                pass
            else:
                assert count > 5
                return
            finally:
                kill.left = -1
        yield count
        for path in sorted(Path("run").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_a_start_that_is_killed_while_it_puts_a_run_aside_leaves_that_run(monkeypatch):
    def act():
        run_directory_for_training("run", "sft", None, overwrite=True).begin()

    for _ in at_each_operation(monkeypatch, act):
        assert start().resumes
        assert found() == whole("old")


def test_a_run_that_is_killed_before_its_first_step_leaves_the_one_before(monkeypatch):
    def act():
        directory = run_directory_for_training("run", "sft", None, overwrite=True)
        directory.begin()
        write_run("new", NAMES[:-1])
        directory.withdraw()

    for _ in at_each_operation(monkeypatch, act):
        start()
        assert found() == whole("old")


def test_a_run_that_is_killed_at_its_first_step_is_whole_and_so_is_the_one_before_until_it_goes(monkeypatch):
    def act():
        directory = run_directory_for_training("run", "sft", None, overwrite=True)
        directory.begin()
        write_run("new")
        directory.let_go()
        directory.release()

    seen = []
    for _ in at_each_operation(monkeypatch, act):
        start()
        seen.append(found())
    assert seen[0] == whole("old")
    assert seen[-1] == whole("new")
    both = whole("old") | {"predictions-1.jsonl": "new"}  # predictions are never removed with a run that made no step
    assert all(state in (whole("old"), whole("new"), both) for state in seen)


def test_the_recovery_may_be_killed_as_well(monkeypatch):
    def interrupted():
        directory = run_directory_for_training("run", "sft", None, overwrite=True)
        directory.begin()
        directory.release()
        Path("run/config.yaml").write_text("# lightning-rlhf==0.1.0 new")

    def act():
        interrupted()
        start()

    for _ in at_each_operation(monkeypatch, act):
        start()
        assert found() == whole("old")


def test_a_run_that_is_killed_before_its_first_step_does_not_stand_in_the_way(monkeypatch):
    directory = run_directory_for_training("run", "sft", None, overwrite=False)
    directory.begin()
    Path("run/config.yaml").write_text("# lightning-rlhf==0.1.0 killed")
    directory.release()
    again = run_directory_for_training("run", "sft", None, overwrite=False)
    assert not again.resumes
    assert [path.name for path in Path("run").iterdir()] == [".fit.lock"]
    again.release()


@pytest.mark.parametrize("moved", [[], ["config.yaml"], ["config.yaml", "checkpoints"]])
def test_what_version_01_left_half_moved_is_put_together_and_refused_as_a_run(moved):
    write_run("old")
    Path("run/.replaced").mkdir()
    for name in moved:
        Path("run", name).rename(Path("run/.replaced", name))
    with pytest.raises(RunDirectoryError, match="must not hold another run"):
        run_directory_for_training("run", "sft", None, overwrite=False)
    assert found() == whole("old")
    assert not Path("run/.replaced").exists()


def test_files_of_two_runs_that_nobody_can_tell_apart_are_left_alone():
    write_run("new")
    Path("run/.replaced").mkdir()
    Path("run/.replaced/config.yaml").write_text("old")
    with pytest.raises(RunDirectoryError, match=r"must hold one run, got files of two: config\.yaml also in"):
        run_directory_for_training("run", "sft", None, overwrite=True)
    assert found() == whole("new") | {".replaced/config.yaml": "old"}
