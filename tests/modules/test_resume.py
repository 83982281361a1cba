"""A run that was cut off goes on, bit by bit, as if it had not been."""

import lightning as L
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import AdaptiveKL
from lightning_rlhf.plugin_system.interfaces import ModelSource
from lightning_rlhf.rollout import ScoreNormalizer


class DropoutModel(ModelSource):
    """GPT-2 with dropout."""

    def load(self):
        from lightning_rlhf.builtins.models import TinyModel

        tokenizer = TinyModel().load()[1]
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=64,
            resid_pdrop=0.1,
            embd_pdrop=0.1,
            attn_pdrop=0.1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return GPT2LMHeadModel(config), tokenizer


RUNS = {
    "sft": lambda kit: kit.sft(batch_size=2, lm_coef=0.1),
    "sft with dropout and noise": lambda kit: kit.sft(base=DropoutModel(), batch_size=2, neftune_alpha=5.0),
    "sft of an adapter with dropout": lambda kit: kit.sft(batch_size=2, adapter=LoRA(rank=2, dropout=0.2)),
    "reward": lambda kit: kit.reward(batch_size=2, centering_coef=0.1),
    "reward by lora": lambda kit: kit.reward(batch_size=2, adapter=LoRA(rank=2)),
    "ppo": lambda kit: kit.ppo(
        minibatch_size=2,
        kl_controller=AdaptiveKL(0.1, 20),
        score_normalizer=ScoreNormalizer(),
        ptx_coef=0.1,
        data={"ptx_source": kit.Demonstrations()},
    ),
    "ppo by lora that stops early": lambda kit: kit.ppo(minibatch_size=2, adapter=LoRA(rank=2), target_kl=1e-4),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_a_resumed_run_ends_with_the_weights_and_logs_of_an_uninterrupted_one(kit, tmp_path, name):
    options = {"max_epochs": 2, "accumulate_grad_batches": 2}
    checkpoints = kit.every_step(tmp_path / "checkpoints")
    whole, rows = kit.logged(
        lambda: RUNS[name](kit), tmp_path / "whole", callbacks=[checkpoints], enable_checkpointing=True, **options
    )
    steps = sorted(int(path.stem.split("=")[1]) for path in (tmp_path / "checkpoints").iterdir())
    per_epoch = steps[-1] // 2
    assert steps == list(range(1, 2 * per_epoch + 1))
    for step in (per_epoch - 1, per_epoch, per_epoch + 1):  # within an epoch, at its end, within the next
        path = tmp_path / "checkpoints" / f"step={step}.ckpt"
        torch.load(path, weights_only=True)
        torch.rand(step)  # another state of the generator than the saved one
        resumed, more = kit.logged(lambda: RUNS[name](kit), tmp_path / f"from-{step}", ckpt_path=path, **options)
        weights = resumed.state_dict()
        for key, value in whole.state_dict().items():
            assert torch.equal(weights[key], value), (step, key)
        # a checkpoint within the last step of an epoch is older than the epoch's validation, which runs again
        expected = [row for row in rows if int(row["step"]) >= step]
        assert expected
        found = [row for row in more if int(row["step"]) >= step]
        assert len(found) == len(expected)
        for row, other in zip(found, expected, strict=True):
            assert {key: row.get(key) for key in other} == other, step
            assert row.keys() == other.keys()


def test_a_checkpoint_holds_the_coefficient_the_moments_the_generators_and_the_plugins(kit, tmp_path):
    module, data = kit.ppo(kl_controller=AdaptiveKL(0.1, 20), score_normalizer=ScoreNormalizer())
    trainer = kit.fit((module, data), tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["lightning_rlhf"]
    assert saved["ppo"]["kl_coef"] == module.kl_coef != 0.05
    assert saved["ppo"]["score_normalizer"]["count"] == 16
    assert saved["random_states"][0].keys() >= {"python", "numpy", "torch"}
    assert saved["plugins"] is not None
    assert saved["seed"] == 1


@pytest.mark.parametrize(("written", "read"), [("sft", "ppo"), ("sft", "reward"), ("reward", "sft"), ("ppo", "sft")])
def test_a_checkpoint_of_another_stage_is_refused_with_both_stages_named(kit, tmp_path, written, read):
    trainer = kit.fit(kit.stage(written), tmp_path, max_steps=1, max_epochs=-1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match=f"must be one of the stage '{read}', got one of '{written}'"):
        kit.fit(kit.stage(read), tmp_path, ckpt_path=tmp_path / "last.ckpt", max_epochs=2)


def test_a_checkpoint_that_is_none_of_ours_is_refused(kit):
    module, _ = kit.ppo()
    with pytest.raises(ModelError, match="got one that none of the stages wrote"):
        module.on_load_checkpoint({"state_dict": {}})


def test_another_seed_than_the_checkpoints_is_reported(kit, tmp_path):
    trainer = kit.fit(kit.sft(), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="written with seed 1, this run has 2"):
        kit.fit(kit.sft(), tmp_path, ckpt_path=tmp_path / "last.ckpt", seed=2, max_epochs=2)


def test_a_longer_reward_run_goes_on_from_the_weights_before_centring(kit, tmp_path):
    def run(epochs, **options):
        path = tmp_path / f"{epochs}{len(options)}"
        return kit.logged(
            lambda: kit.reward(centering_coef=0.5, lr_schedule="constant"), path, max_epochs=epochs, **options
        )

    short, _ = run(1, callbacks=[kit.every_step(tmp_path / "checkpoints", 3)], enable_checkpointing=True)
    assert short.model.score_offset != 0
    trainer = short.trainer
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed, _ = run(2, ckpt_path=tmp_path / "end.ckpt")
    whole, _ = run(2)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


class EveryBatch(L.Callback):
    """Saves after every batch, also where gradients are being accumulated or a validation is due or running."""

    def __init__(self, path, hook):
        self.path, self.hook, self.number = path, hook, 0

    def on_train_batch_end(self, trainer, *args):
        self._save(trainer, "on_train_batch_end")

    def on_validation_start(self, trainer, *args):
        self._save(trainer, "on_validation_start")

    def on_validation_batch_end(self, trainer, *args):
        self._save(trainer, "on_validation_batch_end")

    def _save(self, trainer, hook):
        if hook == self.hook and not trainer.sanity_checking:
            self.number += 1
            trainer.save_checkpoint(self.path / f"{self.number}.ckpt")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_start", "on_validation_batch_end"])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_checkpoint_of_any_batch_is_exact_within_an_accumulation_window_and_a_validation_too(
    kit, tmp_path, stage, hook
):
    def build():
        return kit.ppo(minibatch_size=2) if stage == "ppo" else kit.sft(batch_size=2, data={"source": source})

    source = kit.Demonstrations(validation=7)
    options = {"max_epochs": 2, "accumulate_grad_batches": 3, "val_check_interval": 2}
    saver = EveryBatch(tmp_path / "saved", hook)
    whole, rows = kit.logged(build, tmp_path / "whole", callbacks=[saver], **options)
    assert saver.number >= 6
    for number in (1, 2, saver.number // 2 + 1, saver.number):
        path = tmp_path / "saved" / f"{number}.ckpt"
        resumed, more = kit.logged(build, tmp_path / f"from-{number}", ckpt_path=path, **options)
        weights = resumed.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items()), number
        assert more == rows[len(rows) - len(more) :], number


def test_a_checkpoint_within_a_window_of_several_processes_says_that_it_is_not_exact(kit, tmp_path):
    saver = EveryBatch(tmp_path, "on_train_batch_end")
    kit.fit(kit.sft(batch_size=2), tmp_path, callbacks=[saver], accumulate_grad_batches=2)
    saved = torch.load(tmp_path / "1.ckpt", weights_only=True)
    saved["lightning_rlhf"]["window"]["gradients"] = None  # as several processes leave it
    torch.save(saved, tmp_path / "several.ckpt")
    with pytest.warns(UserWarning, match="in the middle of an accumulation window of several processes"):
        kit.fit(kit.sft(batch_size=2), tmp_path, ckpt_path=tmp_path / "several.ckpt", accumulate_grad_batches=2)
