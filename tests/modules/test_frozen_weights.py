"""Checkpoints leave out what is not trained and can be had again; what is loaded is whole all the same."""

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from safetensors.torch import load_file, save_file

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LoRA, load_base, save_language_model
from lightning_rlhf.modules import SFTModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:You're using the WeightAveraging callback",
    "ignore:The dirpath has changed",
    "ignore:SWA is currently only supported every epoch",
    "ignore:Swapping scheduler",
    "ignore:.*does not have many workers",
)


class Unpromised(TinyModel):
    """Says nothing of giving the same weights again."""

    reproducible = False


@pytest.fixture
def directory(kit, tmp_path):
    loaded = load_base(kit.model())
    save_language_model(loaded.model, loaded.tokenizer, tmp_path / "base", None)
    return tmp_path / "base"


def saved(trainer, path):
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def base_of(state):
    """Its weights that adapters are not."""
    return [name for name in state if not {"lora_A", "lora_B", "head", "value_head"} & {*name.split(".")}]


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_checkpoint_of_adapters_holds_what_is_trained_and_loads_whole(kit, tmp_path, directory, stage):
    run = kit.stage(stage, base=str(directory), adapter=LoRA(rank=2))
    state = saved(kit.fit(run, tmp_path), tmp_path / "last.ckpt")["state_dict"]
    assert not base_of(state)
    trained = {name for name, weight in run[0].named_parameters() if weight.requires_grad}
    assert trained <= set(state)
    options = {"rewards": [kit.LowerCase()]} if stage == "ppo" else {}
    again = type(run[0]).load_from_checkpoint(tmp_path / "last.ckpt", adapter=LoRA(rank=2), **options)
    for name, weight in run[0].state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_reference_and_reward_models_are_not_saved_with_a_policy_that_is_trained_whole(kit, tmp_path):
    kit.fit(kit.reward(), tmp_path / "reward")
    run = kit.ppo(reward_model=str(tmp_path / "reward" / "model"))
    state = saved(kit.fit(run, tmp_path), tmp_path / "last.ckpt")["state_dict"]
    assert not [name for name in state if name.startswith(("reward_models.", "actor_critic.reference."))]
    assert [name for name in state if name.startswith("actor_critic.policy.")]
    again = kit.ppo(reward_model=str(tmp_path / "reward" / "model"))
    kit.trainer(tmp_path).validate(*again, ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)


def test_a_base_that_has_changed_is_named(kit, tmp_path, directory):
    run = kit.sft(base=str(directory), adapter=LoRA(rank=2))
    kit.fit(run, tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    message = r"from '.*base', got others from '.*base': 1 of \d+ differ, .*norm\.weight among them"
    with pytest.raises(ModelError, match=message):
        kit.fit(kit.sft(base=str(directory), adapter=LoRA(rank=2)), tmp_path, ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match=message):
        SFTModule.load_from_checkpoint(tmp_path / "last.ckpt", adapter=LoRA(rank=2))


def test_what_nobody_promises_to_give_again_is_saved(kit, tmp_path):
    base = Unpromised(hidden_size=16, num_layers=1, num_heads=2)
    state = saved(kit.fit(kit.sft(base=base, adapter=LoRA(rank=2)), tmp_path), tmp_path / "last.ckpt")["state_dict"]
    assert "model.model.lm_head.weight" in state
    assert load_base(base).model is not None


def test_a_base_that_was_changed_by_hand_is_saved(kit, tmp_path):
    run = kit.sft(adapter=LoRA(rank=2))
    with torch.no_grad():
        run[0].model.model.lm_head.weight.add_(1.0)
    state = saved(kit.fit(run, tmp_path), tmp_path / "last.ckpt")["state_dict"]
    assert base_of(state) == ["model.model.lm_head.weight"]


def test_a_checkpoint_that_holds_everything_loads_and_what_differs_in_it_is_saved_again(kit, tmp_path):
    run = kit.sft(adapter=LoRA(rank=2))
    checkpoint = saved(kit.fit(run, tmp_path), tmp_path / "last.ckpt")
    checkpoint["state_dict"] = {name: weight.clone() for name, weight in run[0].state_dict().items()}
    del checkpoint["lightning_rlhf"]["frozen_weights"]
    checkpoint["state_dict"]["model.model.lm_head.weight"][0, 0] += 1e-6
    torch.save(checkpoint, tmp_path / "old.ckpt")
    again = kit.sft(adapter=LoRA(rank=2))
    trainer = kit.fit(again, tmp_path, ckpt_path=tmp_path / "old.ckpt", max_epochs=2)
    head = again[0].model.model.lm_head.weight
    assert torch.equal(head, checkpoint["state_dict"]["model.model.lm_head.weight"])
    assert base_of(saved(trainer, tmp_path / "new.ckpt")["state_dict"]) == ["model.model.lm_head.weight"]


@pytest.mark.parametrize("make", [lambda: EMAWeightAveraging(decay=0.9), lambda: StochasticWeightAveraging(1e-3, 1)])
def test_a_run_with_averaged_weights_is_resumed_exactly(kit, tmp_path, make):
    def run(name, **options):
        options = {"max_epochs": 4, "enable_checkpointing": True, **options}
        build = lambda: kit.sft(adapter=LoRA(rank=2), lr_schedule="constant")  # noqa: E731
        saver = kit.every_step(tmp_path / name / "kept", 3)
        return kit.logged(build, tmp_path / name, callbacks=[make(), saver], **options)[0]

    whole = run("whole")
    path = tmp_path / "whole" / "kept" / "step=9.ckpt"
    assert "model.model.lm_head.weight" not in torch.load(path, weights_only=True).get("current_model_state", {})
    resumed = run("resumed", ckpt_path=path)
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
