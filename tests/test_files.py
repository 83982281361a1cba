"""A file is whole, old or new, whatever the disk does."""

import errno
import os
from pathlib import Path

import pytest

from lightning_rlhf.errors import StorageError
from lightning_rlhf.files import clear_storage_errors, storage_fault, whole_folder, written_beside

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
    for name in (".model.new", ".model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    with whole_folder(tmp_path / "model") as folder:
        assert not list(folder.iterdir())
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


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
