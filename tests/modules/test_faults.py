"""What the stages do with numbers that are none: which rows, which scorers, which step."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_rlhf.callbacks import NonFiniteGuard
from lightning_rlhf.errors import DivergenceError, ScorerError
from lightning_rlhf.plugin_system.interfaces import RewardFunction


def spoilt(module, step):
    """The module, whose loss is nan from a training step on."""
    original = module.training_step

    def training_step(batch, batch_idx):
        loss = original(batch, batch_idx)
        return loss * math.nan if batch_idx >= step else loss

    module.training_step = training_step
    return module


@pytest.mark.parametrize(
    ("stage", "rows"),
    [
        ("sft", r"rows Demonstrations\[train\]:\d+, Demonstrations\[train\]:\d+"),
        ("reward", r"rows Rankings\[train\]:\d+, Rankings\[train\]:\d+"),
        ("ppo", r"rows Prompts\[train\]:\d+, .*, scored by LowerCase; the first prompt: 'say \d+\\n', its re"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_diverged_run_stops_before_it_changes_a_weight_and_names_rows_and_step(
    kit, tmp_path, stage, rows, accumulate
):
    module, data = kit.stage(stage, **({"minibatch_size": 2} if stage == "ppo" else {"batch_size": 2}))
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    with pytest.raises(DivergenceError, match=f"the loss must be finite, got nan in step 0, epoch 0: {rows}"):
        kit.fit((spoilt(module, 0), data), tmp_path, accumulate_grad_batches=accumulate)
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())
    assert not (tmp_path / "model").exists()


def test_a_plain_trainer_leaves_steps_out_when_its_user_asks_for_it(kit, tmp_path):
    module, data = kit.sft(batch_size=4)
    guard = NonFiniteGuard("skip")
    trainer = kit.fit((spoilt(module, 2), data), tmp_path, callbacks=[guard])
    assert guard.num_skipped == 1
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert all(weight.isfinite().all() for weight in module.parameters())
    assert sum(isinstance(callback, NonFiniteGuard) for callback in trainer.callbacks) == 1


def test_the_numbers_skipped_so_far_stand_in_the_checkpoint(kit, tmp_path):
    module, data = kit.sft(batch_size=4)
    trainer = kit.fit((spoilt(module, 2), data), tmp_path, callbacks=[NonFiniteGuard("skip")])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    guard = NonFiniteGuard("skip")
    kit.fit(kit.sft(batch_size=4), tmp_path, callbacks=[guard], ckpt_path=tmp_path / "last.ckpt", max_epochs=2)
    assert guard.num_skipped == 1


class Nan(RewardFunction):
    """Scores from the second iteration on that are none."""

    calls = 0

    def __call__(self, prompts, responses, **columns):
        Nan.calls += 1
        return [math.nan if Nan.calls > 1 else float(row % 2) for row in range(len(responses))]


def test_a_score_that_is_none_names_scorer_prompt_response_and_step(kit, tmp_path):
    Nan.calls = 0
    message = (
        r"a score of reward function 'Nan' must be a finite number, got nan\. prompt: 'say \d+\\n', response: .* "
        r"This was in iteration 1, after 4 steps\."
    )
    with pytest.raises(ScorerError, match=message):
        kit.fit(kit.ppo(rewards=[Nan()]), tmp_path, max_epochs=2, limit_val_batches=0)


def test_a_packed_row_is_named_by_all_that_is_in_it(kit, tmp_path):
    module, data = kit.sft(batch_size=1, data={"packing": True, "max_length": 60})
    with pytest.raises(DivergenceError, match=r"Demonstrations\[train\]:\d+ and Demonstrations\[train\]:\d+"):
        kit.fit((spoilt(module, 0), data), tmp_path)


class Ruin(L.Callback):
    """Makes the weights, after the last step of the second epoch, such as a step that was too long leaves them."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and trainer.is_last_batch:
            for weight in module.parameters():
                weight.data.mul_(1e15)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
@pytest.mark.parametrize("weights_only", [False, True])
def test_weights_whose_next_pass_is_no_number_are_not_saved(kit, tmp_path, stage, weights_only):
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_weights_only=weights_only)
    options = {"enable_checkpointing": True, "max_epochs": 3, "limit_val_batches": 0}
    with pytest.raises(DivergenceError, match="must be finite") as stop:
        kit.fit(kit.stage(stage), tmp_path, callbacks=[Ruin(), saving], **options)
    assert stop.value.exit_code == 3
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["epoch=0.ckpt"]
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("sampler", ["builtin", "transformers"])
def test_a_policy_whose_logits_are_no_numbers_has_diverged(kit, tmp_path, sampler):
    with pytest.raises(DivergenceError, match="the logits of the model must be finite"):
        kit.fit(
            kit.ppo(learning_rate=1e30, lr_schedule="constant", sampler=sampler, num_epochs=1, minibatch_size=8),
            tmp_path,
            max_epochs=2,
        )


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_the_look_at_the_weights_leaves_no_trace(kit, tmp_path, stage):
    module, data = kit.stage(stage, **({"neftune_alpha": 5.0} if stage == "sft" else {}))
    trainer = kit.fit((module, data), tmp_path)
    batch = next(iter(trainer.train_dataloader))
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    assert not module.computed_on(batch).requires_grad
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
