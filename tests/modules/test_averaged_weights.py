"""EMA and SWA: `model/` holds the averaged weights, and what is computed at the end is computed with them."""

import json
import shutil

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from safetensors.torch import load_file

from lightning_rlhf.models import LoRA, ScalarModel

pytestmark = pytest.mark.filterwarnings(
    "ignore:You're using the WeightAveraging callback with a model that overrides",
    "ignore:SWA is currently only supported every epoch",
    "ignore:.*lr_scheduler.step.*before.*optimizer.step:UserWarning",
)

AVERAGES = {
    "ema": lambda: EMAWeightAveraging(decay=0.8),
    "swa": lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1),
}


def scores(model, data):
    with torch.no_grad():
        return torch.cat([model.scores(b.tokens, b.last_positions) for b in data.unshuffled_train_dataloader()])


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", list(AVERAGES))
def test_a_reward_model_of_averaged_weights_is_centred(kit, tmp_path, kind, adapter):
    average = AVERAGES[kind]()
    module, data = kit.reward(adapter=adapter)
    kit.fit((module, data), tmp_path, callbacks=[average], max_epochs=3)
    found = scores(ScalarModel.load(str(tmp_path / "model")).model, data)
    assert abs(float(found.mean())) < 1e-5
    torch.testing.assert_close(found, scores(module.model, data), rtol=0, atol=1e-5)
    averaged = average._average_model.module if kind == "ema" else average._average_model
    torch.testing.assert_close(found, scores(averaged.model, data), rtol=0, atol=1e-5)


@pytest.fixture
def run(kit, tmp_path):
    """`run(stage, kind, max_epochs, checkpoint)`: what `model/` holds; a checkpoint is kept of every epoch."""

    def fit(stage, kind, max_epochs, checkpoint=None):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        every = ModelCheckpoint(tmp_path / "c", save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=True)
        first = {"enable_checkpointing": True, "callbacks": [AVERAGES[kind](), every]}
        options = {"callbacks": [AVERAGES[kind]()]} if checkpoint else first
        name, _, adapted = stage.partition(" with ")
        built = kit.stage(name, lr_schedule="constant", adapter=LoRA(rank=2) if adapted else None)
        kit.fit(built, tmp_path, ckpt_path=checkpoint, max_epochs=max_epochs, limit_val_batches=0, **options)
        return load_file(tmp_path / "model" / "model.safetensors")

    return fit


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "reward with lora"])
@pytest.mark.parametrize("kind", list(AVERAGES))
def test_a_run_that_is_resumed_writes_the_averaged_weights_as_well(run, tmp_path, stage, kind):
    whole = run(stage, kind, 3)
    for epoch in (1, 2):  # two epochs of three, and all of them
        found = run(stage, kind, 3, tmp_path / "c" / f"epoch={epoch}.ckpt")
        assert all(found[name].equal(weight) for name, weight in whole.items()), epoch


def test_a_longer_reward_run_goes_on_from_the_average_before_it_was_centred(run, tmp_path):
    run("reward", "ema", 2)
    config = tmp_path / "model" / "config.json"
    found = run("reward", "ema", 3, tmp_path / "c" / "epoch=1.ckpt")
    resumed = json.loads(config.read_text())["score_offset"]
    shutil.rmtree(tmp_path / "c")
    whole = run("reward", "ema", 3)
    assert all(found[name].equal(weight) for name, weight in whole.items())
    assert resumed == json.loads(config.read_text())["score_offset"]
