"""When `model/` is written."""

import shutil
from pathlib import Path

import lightning as L
import pytest
from safetensors.torch import load_file

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.callbacks import ModelExport, SampleTable
from lightning_rlhf.data import DemonstrationData
from lightning_rlhf.modules import SFTModule
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Demonstration, Message

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")  # lightning's own


class Demonstrations(DataSource):
    def load(self, split: str) -> list[Demonstration]:
        return [Demonstration((Message("user", "say"), Message("assistant", "a" * (1 + row)))) for row in range(4)]


class Breaking(L.Callback):
    def on_train_batch_end(self, *args: object) -> None:
        raise RuntimeError("out of memory")


def fit(path: Path, module: SFTModule | None = None, ckpt_path: Path | None = None, **options: object) -> L.Trainer:
    module = module or SFTModule(TinyModel(hidden_size=16, num_layers=1, num_heads=2), max_response_length=4)
    defaults: dict[str, object] = {"max_epochs": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
    trainer = L.Trainer(default_root_dir=path, **defaults | quiet | options)  # type: ignore[arg-type]
    trainer.fit(module, DemonstrationData(Demonstrations()), ckpt_path=ckpt_path)
    return trainer


def test_the_model_is_written_when_training_ends(tmp_path):
    fit(tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json", "rlhf.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_a_trial_run_writes_no_model(tmp_path):
    fit(tmp_path, fast_dev_run=True)
    assert not (tmp_path / "model").exists()


def test_a_run_that_breaks_off_writes_no_model(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, callbacks=[Breaking()])
    assert not (tmp_path / "model").exists()


def test_a_run_that_is_resumed_at_its_end_writes_the_model_that_was_not_written(tmp_path):
    trainer = fit(tmp_path)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    whole = load_file(tmp_path / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "model")
    fit(tmp_path, ckpt_path=tmp_path / "end.ckpt")
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert all(found[name].equal(value) for name, value in whole.items())


def test_a_run_without_a_step_writes_no_model(tmp_path):
    fit(tmp_path, limit_train_batches=0)
    assert not (tmp_path / "model").exists()


def test_a_model_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, monkeypatch):
    fit(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    module = SFTModule(TinyModel(hidden_size=16, num_layers=1, num_heads=2, seed=5), max_response_length=4)
    monkeypatch.setattr(type(module.tokenizer), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, module)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_callbacks_that_the_trainer_brings_are_kept(tmp_path):
    mine = [ModelExport(folder="here"), SampleTable(num_rows=1, file="mine.jsonl")]
    trainer = fit(tmp_path, callbacks=mine)
    assert (tmp_path / "here" / "config.json").is_file()
    assert (tmp_path / "mine.jsonl").is_file()
    assert sum(isinstance(callback, ModelExport | SampleTable) for callback in trainer.callbacks) == 2
