"""What a resumed run is told holds, also where Lightning would put back what the checkpoint says."""

import pytest
import torch


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
