"""Checkpoints of a Trainer: whole, with their checksums, in the background too."""

import errno
import threading
import zipfile

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import AsyncCheckpointIO

from lightning_rlhf.callbacks.last_checkpoint import LastCheckpoint
from lightning_rlhf.checkpoints import file_io
from lightning_rlhf.checkpoints.file_io import BackgroundIO, WholeFileIO
from lightning_rlhf.checkpoints.integrity import damage
from lightning_rlhf.errors import ConfigError, ModelError, StorageError
from lightning_rlhf.modules import SFTModule


def has_checksum(path):
    return zipfile.ZipFile(path).comment.startswith(b"lightning-rlhf xxh3-128 ")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_whatever_writes_a_checkpoint_it_carries_its_checksum(kit, tmp_path):
    callbacks = [LastCheckpoint(tmp_path / "checkpoints"), ModelCheckpoint(tmp_path, filename="best")]
    trainer = kit.fit(kit.sft(), tmp_path, callbacks=callbacks, enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")
    for name in ("checkpoints/last.ckpt", "best.ckpt", "hpc_ckpt_1.ckpt"):
        assert has_checksum(tmp_path / name), name
        assert damage(tmp_path / name) is None


def test_a_notebook_is_told_of_a_damaged_checkpoint_and_of_weights_alone(kit, tmp_path):
    trainer = kit.fit(kit.sft(), tmp_path)
    trainer.save_checkpoint(tmp_path / "flipped.ckpt")
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    flip(tmp_path / "flipped.ckpt")
    with pytest.raises(ModelError, match=r"flipped\.ckpt', which is damaged.*one is .*whole\.ckpt|weights\.ckpt"):
        kit.fit(kit.sft(), tmp_path, ckpt_path=tmp_path / "flipped.ckpt", max_epochs=2)
    with pytest.raises(ModelError, match="is damaged"):
        SFTModule.load_from_checkpoint(tmp_path / "flipped.ckpt", base=kit.model())
    with pytest.raises(ModelError, match="holds weights alone"):
        kit.fit(kit.sft(), tmp_path, ckpt_path=tmp_path / "weights.ckpt", max_epochs=2)
    kit.trainer(tmp_path).validate(*kit.sft(), ckpt_path=tmp_path / "weights.ckpt", weights_only=True, verbose=False)


class Slow(WholeFileIO):
    """A slow disk, which fails at one of its files."""

    def __init__(self, fails_at=None):
        self.waits, self.paths, self.fails_at = threading.Event(), [], fails_at

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        assert threading.current_thread() is not threading.main_thread()
        self.waits.wait(0.05)
        self.paths.append(path)
        if len(self.paths) == self.fails_at:
            raise StorageError("last.ckpt must be usable, got: No space left on device.")
        super().save_checkpoint(checkpoint, path, storage_options)


@pytest.fixture
def slow(monkeypatch):
    def use(**options):
        disk = Slow(**options)
        monkeypatch.setattr("lightning_rlhf.checkpoints.strategies.WholeFileIO", lambda: disk)
        return disk

    return use


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The dirpath has changed")
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_run_that_writes_in_the_background_leaves_what_one_that_waits_leaves(kit, tmp_path, slow, stage):
    def run(name, **options):
        folder = tmp_path / name / "checkpoints"
        callbacks = [LastCheckpoint(folder), ModelCheckpoint(folder, filename="{step}", save_top_k=1)]
        options = {"callbacks": callbacks, "enable_checkpointing": True, "max_epochs": 2, **options}
        return kit.logged(lambda: kit.stage(stage, lr_schedule="constant"), tmp_path / name, **options)

    _, rows = run("waits")
    longer, _ = run("longer", max_epochs=3)
    disk = slow()
    _, found = run("does not", plugins=[AsyncCheckpointIO()])
    assert len(disk.paths) >= 4
    assert found == rows
    expected = {path.name for path in (tmp_path / "waits" / "checkpoints").iterdir()}
    assert {path.name for path in (tmp_path / "does not" / "checkpoints").iterdir()} == expected >= {"last.ckpt"}
    for name in expected:
        folders = (tmp_path / each / "checkpoints" for each in ("waits", "does not"))
        state, other = (torch.load(folder / name, weights_only=True) for folder in folders)
        assert all(torch.equal(other["state_dict"][key], value) for key, value in state["state_dict"].items())
    last = tmp_path / "does not" / "checkpoints" / "last.ckpt"
    resumed, _ = run("resumed", max_epochs=3, ckpt_path=last, plugins=[AsyncCheckpointIO()])
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in longer.state_dict().items())


def test_a_disk_that_fails_in_the_background_ends_the_run_and_leaves_the_last_whole_checkpoint(kit, tmp_path, slow):
    disk = slow(fails_at=2)
    folder = tmp_path / "checkpoints"
    callbacks = [LastCheckpoint(folder)]
    options = {"callbacks": callbacks, "enable_checkpointing": True, "plugins": [AsyncCheckpointIO()]}
    with pytest.raises(StorageError, match=r"last\.ckpt must be usable, got: No space left"):
        kit.fit(kit.sft(), tmp_path, max_epochs=3, **options)
    assert len(disk.paths) == 2
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_a_disk_that_fails_at_the_very_last_checkpoint_is_told_of_as_well(kit, tmp_path, slow):
    slow(fails_at=1)
    options = {"callbacks": [LastCheckpoint(tmp_path)], "enable_checkpointing": True, "plugins": [AsyncCheckpointIO()]}
    with pytest.raises(StorageError, match="No space left"):
        kit.fit(kit.sft(), tmp_path, max_epochs=1, **options)


def test_in_the_background_one_thing_is_done_after_the_other_and_nothing_after_a_fault(tmp_path):
    io = BackgroundIO(WholeFileIO())
    state = {"weight": torch.zeros(2)}
    io.save_checkpoint(state, tmp_path / "one.ckpt")
    state["weight"].fill_(1.0)
    io.save_checkpoint(state, tmp_path / "two.ckpt")
    io.remove_checkpoint(tmp_path / "one.ckpt")
    assert io.load_checkpoint(tmp_path / "two.ckpt", weights_only=True)["weight"].tolist() == [1.0, 1.0]
    assert not (tmp_path / "one.ckpt").exists()
    (tmp_path / "file").touch()
    io.save_checkpoint(state, tmp_path / "file" / "three.ckpt")
    io.remove_checkpoint(tmp_path / "two.ckpt")
    with pytest.raises(StorageError):
        io.finish()
    assert (tmp_path / "two.ckpt").exists()
    io.teardown()


def test_one_that_nothing_can_wait_for_is_refused(kit, tmp_path):
    class Mine(AsyncCheckpointIO):
        pass

    with pytest.raises(ConfigError, match="must be AsyncCheckpointIO itself, got Mine, which nothing can wait for"):
        kit.fit(kit.sft(), tmp_path, plugins=[Mine()])


def test_the_disks_own_word_is_kept_in_place_of_torchs(tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(file_io, "SealedFile", lambda file, make=file_io.SealedFile: make(Full(file)))
    with pytest.raises(StorageError, match=r"one\.ckpt must be usable, got: No space left"):
        WholeFileIO().save_checkpoint({"weight": torch.zeros(2)}, tmp_path / "one.ckpt")
    assert not list(tmp_path.iterdir())
