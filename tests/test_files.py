"""A file is whole, old or new, whatever the disk does."""

import errno
import os
from pathlib import Path

import pytest

from lightning_rlhf.errors import StorageError
from lightning_rlhf.files import (
    beside,
    clear_storage_errors,
    replace_whole,
    settle,
    storage_fault,
    whole_folder,
    written_beside,
)

FULL = Path("/dev/full")
"""Every write to it fails as on a full disk."""


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "deeper" / "file.txt"
    with written_beside(path) as beside:
        beside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_file_that_is_broken_off_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def breaks_off():
        with written_beside(path) as beside:
            beside.write_text("ne")
            raise KeyError

    with pytest.raises(KeyError):
        breaks_off()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_is_a_message_with_the_place_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    (tmp_path / ".file.txt.part").symlink_to(FULL)
    with (
        pytest.raises(StorageError, match=r"file.txt must be usable, got: No space left on device\. Free some space"),
        written_beside(path) as beside,
    ):
        beside.write_text("new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_takes_its_place_when_it_is_whole_and_vanishes_when_it_is_not(tmp_path):
    path = tmp_path / "model"
    for text in ("first", "second"):
        with whole_folder(path) as folder:
            (folder / "weights").write_text(text)
        assert (path / "weights").read_text() == text

    def fills_the_disk():
        with whole_folder(path) as folder:
            (folder / "weights").write_text("third")
            FULL.write_text("more")

    with pytest.raises(StorageError, match="No space left"):
        fills_the_disk()
    assert (path / "weights").read_text() == "second"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_what_a_kill_left_is_cleared_away_by_the_next(tmp_path):
    for name in (".model.new", ".model.gone", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    with whole_folder(tmp_path / "model") as folder:
        assert not list(folder.iterdir())
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def a_file(path, text):
    with written_beside(path) as part:
        part.write_text(text)


def a_folder(path, text):
    with whole_folder(path) as folder:
        for name in ("weights", "config"):
            (folder / name).write_text(text)


def a_file_that_waits(path, text):
    a_file(beside(path, "new"), text)
    replace_whole(path)


def a_folder_that_waits(path, text):
    new = beside(path, "new")
    new.mkdir()
    for name in ("weights", "config"):
        (new / name).write_text(text)
    replace_whole(path)


def texts(path):
    """What is written there; of a folder in each of its files."""
    if path.is_dir():
        assert {file.name for file in path.iterdir()} == {"weights", "config"}
        return {file.read_text() for file in path.iterdir()}
    return {path.read_text()} if path.exists() else set()


@pytest.mark.parametrize("before", ["nothing", "an old one"])
@pytest.mark.parametrize("write", [a_file, a_folder, a_file_that_waits, a_folder_that_waits])
def test_a_kill_at_any_file_operation_leaves_the_old_one_or_the_new_one_whole(tmp_path, deaths, write, before):
    expected = {frozenset({"new"}), frozenset({"old"}) if before == "an old one" else frozenset()}
    for step in deaths:
        path = tmp_path / str(step) / "it"
        path.parent.mkdir()
        if before == "an old one":
            write(path, "old")
        died = deaths.at(step, lambda path=path: write(path, "new"))
        settle(path.parent, "it")
        assert texts(path) in expected, step
        assert [each.name for each in path.parent.iterdir()] == ["it"] * path.exists(), step
        if not died:
            assert texts(path) == {"new"}
            break
    assert step > 3


@pytest.mark.parametrize("write", [a_file, a_folder])
def test_after_a_kill_and_on_a_full_disk_the_old_one_is_still_there(tmp_path, deaths, write):
    """A second blow, before anything has settled what the first one left."""
    for step in deaths:
        path = tmp_path / str(step) / "it"
        path.parent.mkdir()
        write(path, "old")
        if not deaths.at(step, lambda path=path: write(path, "new")):
            break
        with pytest.raises(StorageError, match="No space left"), written(write, path):
            FULL.write_text("more")
        assert texts(path) in ({"old"}, {"new"}), step
    assert step > 3


def written(write, path):
    return written_beside(path) if write is a_file else whole_folder(path)


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    a_folder(path, "old")
    rename = Path.rename

    def refuses_the_new_one(self, target):
        if self.name == ".model.new":
            raise OSError(errno.EIO, "no", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses_the_new_one)
    with pytest.raises(StorageError, match="Look after the disk"):
        a_folder(path, "new")
    assert texts(path) == {"old"}
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_only_what_lies_beside_the_named_is_settled(tmp_path):
    mine = [".mine.part", ".profile", ".model", "model.old", ".git.old"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    for name in (".model.new", ".last.ckpt.part", "..last.ckpt.new.part"):
        (tmp_path / name).touch()
    settle(tmp_path, "model", "*.ckpt")
    settle(tmp_path / "not there", "*")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(mine)


def test_a_place_below_a_file_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "more"
    with pytest.raises(StorageError, match="file must be usable, got: File exists"), written_beside(path) as beside:
        beside.touch()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "no", "here.txt"), "here.txt must be usable, got: Permission denied. Get the"),
        (OSError(errno.EROFS, "no", "here.txt"), "Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "no", "gone.txt"), "gone.txt must be usable, got: No such file or directory"),
        (OSError(errno.ENOSPC, "no"), "what the run writes must be usable, got: No space left on device"),
        # what safetensors raises
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (OSError(errno.ENOSPC, "no", "run/..last.ckpt.new.part"), "run/last.ckpt must be usable, got: No space left"),
        (OSError(errno.EFBIG, "no", "big"), "Raise the limit on the size of files"),
    ],
)
def test_what_the_machine_refuses_is_a_message(error, message):
    assert message in str(storage_fault(error))


@pytest.mark.parametrize(
    "error",
    [KeyError("a"), OSError("a library's own"), FileNotFoundError(errno.ENOENT, "no"), ConnectionResetError(104, "no")],
)
def test_what_is_not_the_disks_stays_what_it_is(error):
    assert storage_fault(error) is None
    with pytest.raises(type(error)), clear_storage_errors():
        raise error


def test_a_name_that_is_known_is_told_where_the_error_knows_none():
    assert "metrics.csv" in str(storage_fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "metrics.csv"))
