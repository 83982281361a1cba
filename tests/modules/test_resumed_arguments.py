"""What a resumed run is told holds, also where Lightning would put back what the checkpoint says."""

import pytest
import torch

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoRA, ScalarModel
from lightning_rlhf.modules import AdaptiveKL, FixedKL
from lightning_rlhf.rollout import ScoreNormalizer


def steps(rows, name="train/learning_rate"):
    return [float(row[name]) for row in rows if name in row]


@pytest.fixture
def begun(kit, tmp_path):
    """Begins a run of a stage and gives the way to go on from its last checkpoint."""

    def begin(stage, epochs=1, **options):
        module, rows = kit.logged(lambda: kit.stage(stage, **options), tmp_path / "begun", max_epochs=epochs)
        module.trainer.save_checkpoint(tmp_path / "begun.ckpt")

        def resume(epochs=2, trainer=None, **changed):
            module, rows = kit.logged(
                lambda: kit.stage(stage, **{**options, **changed}),
                tmp_path / f"resumed-{epochs}-{'-'.join(changed)}",
                ckpt_path=tmp_path / "begun.ckpt",
                max_epochs=epochs,
                **trainer or {},
            )
            module.trainer.save_checkpoint(tmp_path / "resumed.ckpt")
            return module, rows, torch.load(tmp_path / "resumed.ckpt", weights_only=True)

        resume.rows = rows
        return resume

    return begin


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_rate_and_decay_are_those_of_the_resumed_call(begun, stage):
    resume = begun(stage, lr_schedule="constant", weight_decay=0.1)
    assert steps(resume.rows) == pytest.approx([0.01] * 3)
    _, rows, saved = resume(learning_rate=0.0005, weight_decay=0.3)
    assert steps(rows) == pytest.approx([0.0005] * 3)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [group["lr"] for group in groups] == pytest.approx([0.0005] * 2)
    assert saved["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.0005] * 2)


def test_a_finished_run_that_is_made_longer_goes_on_where_the_longer_schedule_stands(begun):
    resume = begun("sft")
    assert steps(resume(epochs=3)[1]) == pytest.approx([0.01 * (1 - step / 9) for step in range(3, 9)])


def test_schedule_and_warm_up_of_the_resumed_call_hold_from_its_first_step(begun):
    resume = begun("sft", lr_schedule="constant")
    _, rows, _ = resume(lr_schedule="linear")
    assert steps(rows) == pytest.approx([0.01 * (1 - step / 6) for step in range(3, 6)])
    _, rows, _ = resume(warmup_steps=4, lr_schedule="linear")
    assert steps(rows) == pytest.approx([0.01 * 4 / 5, 0.01, 0.01 * (1 - 1 / 2)])


def test_each_rate_of_ppo_is_that_of_the_resumed_call(begun):
    resume = begun("ppo", lr_schedule="constant")
    _, rows, saved = resume(learning_rate=0.002, value_learning_rate=0.03)
    assert steps(rows) == pytest.approx([0.002] * 4)
    rates = {group["name"]: group["lr"] for group in saved["optimizer_states"][0]["param_groups"]}
    assert rates["policy"] == pytest.approx(0.002)
    assert rates["value"] == pytest.approx(0.03)


def test_options_of_the_optimizer_that_no_checkpoint_records_come_from_its_state(kit, begun, tmp_path):
    resume = begun("sft", lr_schedule="constant")
    saved = torch.load(tmp_path / "begun.ckpt", weights_only=True)
    del saved["lightning_rlhf"]["optimizer_options"]
    torch.save(saved, tmp_path / "begun.ckpt")
    _, rows, after = resume(learning_rate=0.002, weight_decay=0.2)
    assert steps(rows) == pytest.approx([0.002] * 3)
    assert after["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.2


def test_the_coefficient_of_the_kl_is_the_resumed_calls_if_that_changes_it_and_else_the_adapted_one(begun):
    resume = begun("ppo", kl_coef=0.2, kl_controller=AdaptiveKL(0.1, 20))
    (first,) = steps(resume.rows, "objective/kl_coef")
    (second,) = steps(resume()[1], "objective/kl_coef")
    assert first == pytest.approx(0.2)
    assert second != pytest.approx(0.2)
    (changed,) = steps(resume(kl_coef=0.7)[1], "objective/kl_coef")
    assert changed == pytest.approx(0.7)
    (fixed,) = steps(resume(kl_controller=FixedKL())[1], "objective/kl_coef")
    assert fixed == pytest.approx(0.2)


def test_moments_of_other_scores_are_not_gone_on_from(begun):
    resume = begun("ppo", reward_weights=[1.0], score_normalizer=ScoreNormalizer())
    same, *_ = resume(score_normalizer=ScoreNormalizer())
    assert same.scorers.normalizer.state_dict()["count"] == 16
    with pytest.warns(UserWarning, match="moments of the scores begin anew: reward_weights changed"):
        other, *_ = resume(score_normalizer=ScoreNormalizer(), reward_weights=[5.0])
    assert other.scorers.normalizer.state_dict()["count"] == 8


def test_another_reward_model_rewards_the_rest_of_the_run(kit, begun, tmp_path):
    for number in (1, 2):
        kit.fit(kit.reward(learning_rate=0.01 * number), tmp_path / f"reward-{number}")
    resume = begun("ppo", reward_model=str(tmp_path / "reward-1" / "model"), lr_schedule="constant")
    (before,) = steps(resume()[1], "objective/scores")
    module, rows, _ = resume(reward_model=str(tmp_path / "reward-2" / "model"))
    expected = ScalarModel.load(str(tmp_path / "reward-2" / "model")).model.state_dict()
    found = module.reward_models[0].state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert steps(rows, "objective/scores") != pytest.approx([before])


@pytest.mark.parametrize(
    ("stage", "options", "changed", "message"),
    [
        ("sft", {"adapter": LoRA(rank=2)}, {"adapter": LoRA(rank=4)}, "adapter.rank 2 -> 4"),
        ("reward", {"adapter": LoRA(rank=2)}, {"adapter": LoRA(rank=2, alpha=1.0)}, "adapter.alpha 16.0 -> 1.0"),
        ("sft", {}, {"adapter": LoRA(rank=2)}, "adapter None -> LoRA"),
        ("ppo", {}, {"value_model": "shared"}, "value_model separate -> shared"),
    ],
)
def test_what_decides_which_weights_are_trained_is_refused_by_name(begun, stage, options, changed, message):
    resume = begun(stage, **options)
    with pytest.raises(ConfigError, match=f"a run that goes on must keep its settings, got {message}"):
        resume(**changed)


@pytest.mark.filterwarnings("ignore:the rows of .* are not those")
@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        ("sft", {"batch_size": 5}, "batch_size over all processes 4 -> 5"),
        ("sft", {"data": {"max_length": 9, "truncation": "right"}}, "training rows 12 of fingerprint"),
        ("ppo", {"temperature": 0.7}, "temperature 1.0 -> 0.7"),
        ("ppo", {"rollout_size": 4, "num_responses_per_prompt": 2}, "num_responses_per_prompt 1 -> 2, rollout_size 8"),
    ],
)
def test_what_cannot_change_in_the_middle_of_an_epoch_is_refused_by_name_and_may_change_at_its_end(
    kit, tmp_path, stage, changed, message
):
    options = {"callbacks": [kit.every_step(tmp_path)], "enable_checkpointing": True, "max_epochs": 1}
    end = kit.fit(kit.stage(stage), tmp_path, **options)
    end.save_checkpoint(tmp_path / "end.ckpt")
    for step in (1, end.global_step):  # the last one is of the last batch, and not yet of the epoch's end
        with pytest.raises(ConfigError, match=f"must keep its settings, got {message}"):
            kit.fit(kit.stage(stage, **changed), tmp_path, ckpt_path=tmp_path / f"step={step}.ckpt", max_epochs=2)
    resumed = kit.fit(kit.stage(stage, **changed), tmp_path, ckpt_path=tmp_path / "end.ckpt", max_epochs=2)
    assert resumed.current_epoch == 2
    assert resumed.global_step > end.global_step


def test_another_seed_is_refused_in_the_middle_of_an_epoch(kit, tmp_path):
    kit.fit(kit.sft(), tmp_path, callbacks=[kit.every_step(tmp_path)], enable_checkpointing=True)
    with (
        pytest.warns(UserWarning, match="written with seed 1, this run has 2"),
        pytest.raises(ConfigError, match="seed 1 -> 2"),
    ):
        kit.fit(kit.sft(), tmp_path, ckpt_path=tmp_path / "step=1.ckpt", seed=2, max_epochs=2)


def test_updates_that_a_target_had_stopped_go_on_without_it(kit, tmp_path):
    saver = {"callbacks": [kit.every_step(tmp_path)], "enable_checkpointing": True}
    kit.fit(kit.ppo(target_kl=1e-6), tmp_path, **saver)
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert saved["lightning_rlhf"]["ppo"]["updates_stopped"]
    trainer = kit.fit(kit.ppo(), tmp_path, ckpt_path=tmp_path / "step=2.ckpt")
    after = trainer.lightning_module.state_dict()
    assert any(not torch.equal(weight, after[name]) for name, weight in saved["state_dict"].items())
    assert [name for name, weight in after.items() if not weight.isfinite().all()] == []
