"""A checkpoint that is not what was written is named before anything is loaded, wherever it is damaged."""

import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_rlhf.checkpoints import integrity
from lightning_rlhf.checkpoints.file_io import WholeFileIO
from lightning_rlhf.checkpoints.integrity import damage, digest, require_whole, write_checksums
from lightning_rlhf.errors import ModelError, StorageError

STATE = {"state_dict": {"weight": torch.arange(40.0)}, "epoch": 3, "names": ["a", "b"]}


@pytest.fixture
def checkpoint(tmp_path):
    """A file as this library writes it."""
    WholeFileIO().save_checkpoint(STATE, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.fixture
def foreign(tmp_path):
    """A file as torch writes it."""
    torch.save(STATE, tmp_path / "foreign.ckpt")
    return tmp_path / "foreign.ckpt"


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded.ckpt"
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"weight": torch.arange(40.0)}, checkpoint_id=folder, no_dist=True)
    torch.save({"epoch": 3}, folder / "meta.pt")
    files = list(folder.iterdir())
    write_checksums(folder, {file.name: (file.stat().st_size, digest(file).hexdigest()) for file in files})
    return folder


def damaged(file, data):
    """What is said of the file with other bytes, whenever they were written."""
    file.write_bytes(data)
    integrity._whole.clear()
    return damage(file)


def flips(data):
    """With one bit turned over, another one each time; at the end, where the checksum is, in every byte."""
    for place in [*range(0, len(data) - 100, 7), *range(len(data) - 100, len(data))]:
        yield data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


def test_a_file_with_a_checksum_is_read_by_torch_and_by_zip_programs_as_one_without(checkpoint):
    for options in ({}, {"mmap": True}):
        found = torch.load(checkpoint, weights_only=True, **options)
        assert found["epoch"] == 3
        assert torch.equal(found["state_dict"]["weight"], STATE["state_dict"]["weight"])
    assert zipfile.ZipFile(checkpoint).testzip() is None
    assert damage(checkpoint) is None


def test_flipped_bits_and_cuts_of_a_file_are_named_wherever_they_are(checkpoint):
    data = checkpoint.read_bytes()
    assert len(data) > 1000
    for number, flipped in enumerate(flips(data)):
        assert damaged(checkpoint, flipped), number
    for length in range(0, len(data), 29):
        assert damaged(checkpoint, data[:length]), length
    assert damaged(checkpoint, data[:-1])
    assert damaged(checkpoint, data[:-56])
    assert damaged(checkpoint, data) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: b"epoch: 3\n", "is none or is cut off"),
        (lambda data: bytes(len(data)), "is none or is cut off"),
        (lambda data: data[:1000] + bytes(len(data) - 1000), "is none or is cut off"),
        (lambda data: data + b"\n", "is none or is cut off"),
        (lambda data: data[:900] + bytes(100) + data[1000:], "is damaged: its bytes are not those that were written"),
        (lambda data: data[:500] + data[600:], "is damaged: its bytes are not those that were written"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(checkpoint, spoil, said):
    assert said in str(damaged(checkpoint, spoil(checkpoint.read_bytes())))


def test_a_file_of_another_program_is_taken_as_it_is_unless_its_entries_are_damaged(foreign):
    assert damage(foreign) is None
    data = foreign.read_bytes()
    place = data.index(torch.arange(40.0).numpy().tobytes()) + 41
    said = damaged(foreign, data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    assert "is damaged: the bytes of foreign/data/0 are not" in said


def test_a_file_whose_entries_have_no_checksums_is_taken_as_it_is(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "bare.ckpt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert damage(tmp_path / "bare.ckpt") is None


def test_every_file_of_a_folder_of_sharded_weights_is_compared(sharded):
    assert damage(sharded) is None
    files = [file for file in sharded.iterdir() if file.name != "checksums.json"]
    assert {file.name for file in files} == {".metadata", "__0_0.distcp", "meta.pt"}
    for file in files:
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert f"the bytes of {file.name} are not those that were written" in damage(sharded)
        file.write_bytes(data)
    assert damage(sharded) is None
    (sharded / "checksums.json").write_text('{"files": [')
    assert "checksums.json is no list of checksums" in damage(sharded)
    (sharded / "checksums.json").unlink()
    assert damage(sharded) is None
    (sharded / "meta.pt").unlink()
    assert "it holds no meta.pt" in damage(sharded)


def test_the_newest_whole_one_is_offered(checkpoint, foreign):
    second = checkpoint.with_name("second.ckpt")
    second.write_bytes(checkpoint.read_bytes())
    broken = checkpoint.with_name("broken.ckpt")
    broken.write_bytes(b"PK")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    gone = checkpoint.with_name("gone.ckpt")
    with pytest.raises(
        ModelError, match=r"got '.*last\.ckpt', which is none or is cut off\. The newest whole one is .*second\.ckpt"
    ):
        require_whole(checkpoint, lambda: [foreign, second, broken, gone, checkpoint])
    with pytest.raises(ModelError, match="No other one is whole: begin anew, with --overwrite and without --ckpt_path"):
        require_whole(checkpoint, lambda: [broken, gone])


def test_a_file_is_read_once_until_it_changes(checkpoint, monkeypatch):
    lengths = []
    monkeypatch.setattr(integrity, "digest", lambda *given: lengths.append(given) or digest(*given))
    for _ in range(3):
        require_whole(checkpoint)
    assert len(lengths) == 1
    checkpoint.write_bytes(checkpoint.read_bytes()[:-60] + bytes(60))
    with pytest.raises(ModelError):
        require_whole(checkpoint)


def test_a_file_that_cannot_be_read_is_the_disks_fault(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        damage(tmp_path / "gone.ckpt")


def test_a_kill_at_any_file_operation_leaves_a_checkpoint_that_is_whole(tmp_path, deaths):
    for step in deaths:
        path = tmp_path / str(step) / "last.ckpt"
        WholeFileIO().save_checkpoint({"epoch": 0}, path)
        died = deaths.at(step, lambda path=path: WholeFileIO().save_checkpoint({"epoch": 1}, path))
        assert damage(path) is None, step
        assert torch.load(path, weights_only=True)["epoch"] in ({0, 1} if died else {1})
        if not died:
            break
    assert step > 2
