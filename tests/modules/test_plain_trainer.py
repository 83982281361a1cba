"""A notebook's Trainer leaves its files in a root of their own and takes nobody's away."""

import os
import shutil
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.checkpoints.ownership import is_owned
from lightning_rlhf.checkpoints.root_choice import run_directory_for_training
from lightning_rlhf.data import DemonstrationData
from lightning_rlhf.errors import RunDirectoryError
from lightning_rlhf.modules import SFTModule
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Demonstration, Message

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")  # lightning's own


class Demonstrations(DataSource):
    def load(self, split: str) -> list[Demonstration]:
        return [Demonstration((Message("user", "say"), Message("assistant", "a" * (1 + row)))) for row in range(4)]


class Looking(L.Callback):
    """What a callback finds while the run is on."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        self.root = Path(trainer.default_root_dir)
        self.is_locked = is_owned(self.root / ".fit.lock")


class Moving(L.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, *args: object) -> None:
        os.chdir(self.folder)


def fit(trainer: L.Trainer, ckpt_path: str | None = None) -> None:
    module = SFTModule(TinyModel(hidden_size=16, num_layers=1, num_heads=2), max_response_length=4)
    trainer.fit(module, DemonstrationData(Demonstrations(), batch_size=2), ckpt_path=ckpt_path)


def a_trainer(**options: object) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
    return L.Trainer(**{"max_epochs": 1} | quiet | options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_fit_without_a_root_gets_a_numbered_one_and_leaves_the_working_directory_alone():
    Path("model").mkdir()
    Path("model/mine.txt").write_text("mine")
    looking = Looking()
    fit(a_trainer(callbacks=[looking]))
    fit(a_trainer())
    assert {path.name for path in Path().iterdir()} == {"model", "runs"}
    assert Path("model/mine.txt").read_text() == "mine"
    assert {path.name for path in Path("runs").iterdir()} == {"sft-0", "sft-1"}
    left = {path.name for path in Path("runs/sft-0").iterdir()}
    assert left == {"checkpoints", "lightning_logs", "model", "samples.jsonl"}
    assert [path.name for path in Path("runs/sft-0/checkpoints").iterdir() if path.suffix == ".ckpt"] == ["last.ckpt"]
    assert looking.root == Path("runs/sft-0").absolute()
    assert looking.is_locked


def test_the_last_checkpoint_is_found_in_the_root_or_refused():
    fit(a_trainer())
    again = a_trainer(max_epochs=3, default_root_dir="runs/sft-0")
    fit(again, "last")
    assert again.global_step == 6
    assert again.ckpt_path == str(Path("runs/sft-0/checkpoints/last.ckpt"))
    fit(a_trainer(max_epochs=4, default_root_dir="runs/sft-0"), "runs/sft-0/checkpoints/last.ckpt")
    with pytest.raises(RunDirectoryError, match="'last' must come with a Trainer that has default_root_dir, got none"):
        fit(a_trainer(), "last")
    with pytest.raises(RunDirectoryError, match=r"must find checkpoints/last\.ckpt in default_root_dir, got other"):
        fit(a_trainer(default_root_dir="other"), "last")
    assert {path.name for path in Path().iterdir()} == {"runs"}
    assert [path.name for path in Path("runs").iterdir()] == ["sft-0"]


def test_the_same_trainer_goes_on_in_its_root():
    trainer = a_trainer()
    fit(trainer)
    trainer.fit_loop.max_epochs = 2
    fit(trainer, "last")
    assert trainer.global_step == 4
    assert [path.name for path in Path("runs").iterdir()] == ["sft-0"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # lightning's, of the user's own
def test_a_checkpoint_callback_of_ones_own_stays():
    fit(a_trainer(callbacks=[ModelCheckpoint("kept", save_last=True)]))
    assert {path.name for path in Path("kept").iterdir()} == {"last.ckpt", "epoch=0-step=2.ckpt"}
    again = a_trainer(max_epochs=2, default_root_dir="runs/sft-0", callbacks=[ModelCheckpoint("kept", save_last=True)])
    fit(again, "last")
    assert again.global_step == 4


def test_a_folder_of_somebodys_in_the_place_of_the_model_is_refused_before_anything_is_trained():
    Path("run/model").mkdir(parents=True)
    Path("run/model/mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"model must be a model that lightning-rlhf wrote, which a rlhf\.json"):
        fit(a_trainer(default_root_dir="run"))
    assert [path.name for path in Path("run").rglob("*")] == ["model", "mine.txt"]


def test_a_folder_that_somebody_puts_in_the_models_place_meanwhile_is_left_alone():
    class Putting(L.Callback):
        def on_train_start(self, *args: object) -> None:
            Path("run/model").mkdir()
            Path("run/model/mine.txt").write_text("mine")

    with pytest.warns(UserWarning, match=r"The model is in .+model-1\."):
        fit(a_trainer(default_root_dir="run", callbacks=[Putting()]))
    assert [path.name for path in Path("run/model").iterdir()] == ["mine.txt"]
    assert Path("run/model-1/model.safetensors").exists()


def test_the_root_is_one_process_and_free_again_when_the_fit_is_over_or_failed():
    def claim() -> None:
        with pytest.raises(RunDirectoryError):
            run_directory_for_training("run", "sft", None, overwrite=False)

    class Failing(L.Callback):
        def on_train_batch_end(self, *args: object) -> None:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(a_trainer(default_root_dir="run", callbacks=[Failing()]))
    assert not Path("run/.fit.lock").exists()
    fit(a_trainer(default_root_dir="run"))
    assert not Path("run/.fit.lock").exists()
    claim()


def test_a_change_of_the_working_directory_moves_no_file(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fit(a_trainer(default_root_dir="run", callbacks=[Moving(elsewhere)]))
    assert not list(elsewhere.iterdir())
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"checkpoints", "lightning_logs", "model", "samples.jsonl"}
    shutil.rmtree(tmp_path / "run")


def test_a_trial_run_and_an_evaluation_write_nothing():
    fit(a_trainer(fast_dev_run=True))
    assert not list(Path().iterdir())
    trainer = a_trainer(logger=False)
    module = SFTModule(TinyModel(hidden_size=16, num_layers=1, num_heads=2), max_response_length=4)
    trainer.validate(module, DemonstrationData(Demonstrations(), batch_size=2), verbose=False)
    assert not list(Path().iterdir())
