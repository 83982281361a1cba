"""Checkpoints that are written whole or not at all."""

import errno
from pathlib import Path

import pytest
import torch

from lightning_rlhf.checkpoints.file_io import WholeFileIO
from lightning_rlhf.errors import StorageError


class FullDisk:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file, room, error):
        self.file, self.room, self.error = file, room, error

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise self.error
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def fill(monkeypatch):
    """`fill(room, error)`: from now on a file that is written takes so many bytes."""
    opened = Path.open

    def fill(room, error):
        def limited(self, mode="r", *args, **kwargs):
            file = opened(self, mode, *args, **kwargs)
            return FullDisk(file, room, error) if mode == "wb" else file

        monkeypatch.setattr(Path, "open", limited)

    return fill


CHECKPOINT = {"state_dict": {"weight": torch.arange(50_000.0)}, "epoch": 3}


@pytest.mark.parametrize("room", [0, 30_000, 200_200], ids=["nothing fits", "half of it fits", "all but its end fits"])
@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded"), (errno.EIO, "error")],
)
def test_a_checkpoint_whose_writing_fails_half_way_is_a_message_and_leaves_the_old_one(
    tmp_path, fill, room, number, message
):
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint({"epoch": 2}, path)
    before = path.read_bytes()
    fill(room, OSError(number, "the disk"))
    with pytest.raises(StorageError, match=rf"last\.ckpt must be usable, got: .*{message}"):
        WholeFileIO().save_checkpoint(CHECKPOINT, path)
    assert path.read_bytes() == before
    assert torch.load(path, weights_only=True) == {"epoch": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_error_that_is_not_the_disks_stays_what_it_is_and_leaves_the_old_one(tmp_path, fill, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint({"epoch": 2}, path)

    def broken(*args):
        raise RuntimeError("a tensor that cannot be written")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="a tensor that cannot be written"):
        WholeFileIO().save_checkpoint(CHECKPOINT, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"epoch": 2}


def test_a_whole_checkpoint_takes_the_place_of_the_old_one(tmp_path):
    for epoch in (2, 3):
        WholeFileIO().save_checkpoint({**CHECKPOINT, "epoch": epoch}, tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 3
    assert torch.equal(saved["state_dict"]["weight"], CHECKPOINT["state_dict"]["weight"])
