"""The learning rate falls to its end at the last optimizer step, however the steps of a run are cut."""

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler

pytestmark = pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches != 1.`")  # its advice

BY_EPOCH = {0: 1, 2: 4}


def rates(rows):
    """The learning rate of each step, in order."""
    found = {}
    for row in rows:
        if "train/learning_rate" in row:
            found.setdefault(int(row["step"]), float(row["train/learning_rate"]))
    return [found[step] for step in sorted(found)]


def falling(num_steps, peak=1e-2):
    """What a linear schedule without warm-up gives a run of that many steps."""
    return pytest.approx([peak * (1 - step / num_steps) for step in range(num_steps)])


def scheduled(by_epoch=BY_EPOCH):
    return GradientAccumulationScheduler(dict(by_epoch))


@pytest.mark.parametrize(
    ("stage", "options", "num_steps"),
    [
        ("sft", {"max_epochs": 4}, 6 + 6 + 2 + 2),
        ("sft", {"max_epochs": 4, "limit_train_batches": 5}, 5 + 5 + 2 + 2),
        ("sft", {"max_epochs": 4, "limit_train_batches": 0.5}, 3 + 3 + 1 + 1),
        ("sft", {"max_epochs": -1, "max_steps": 15}, 15),
        ("sft", {"max_epochs": 4, "max_steps": 13}, 13),
        ("reward", {"max_epochs": 4}, 6 + 6 + 2 + 2),
        ("ppo", {"max_epochs": 4}, 8 + 8 + 2 + 2),
        ("ppo", {"max_epochs": 3, "limit_train_batches": 6}, 6 + 6 + 2),
    ],
)
def test_the_rate_falls_over_the_steps_of_epochs_that_accumulate_differently(kit, tmp_path, stage, options, num_steps):
    sizes = {"minibatch_size": 2} if stage == "ppo" else {"batch_size": 2}
    _, rows = kit.logged(lambda: kit.stage(stage, **sizes), tmp_path, callbacks=[scheduled()], **options)
    assert rates(rows) == falling(num_steps)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 9}])
def test_a_resumed_run_with_accumulation_by_epoch_is_the_uninterrupted_one(kit, tmp_path, stage, limits):
    def build():
        return kit.ppo(minibatch_size=4) if stage == "ppo" else kit.sft(batch_size=3)

    def run(name, *callbacks, **options):
        callbacks = [scheduled({0: 1, 1: 3}), *callbacks]
        return kit.logged(build, tmp_path / name, callbacks=callbacks, enable_checkpointing=True, **limits, **options)

    whole, rows = run("whole", kit.every_step(tmp_path / "checkpoints"))
    paths = sorted((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
    assert len(paths) >= 8
    for path in paths[len(paths) // 2 - 1 : -1 : 2]:  # within epochs of either accumulation
        resumed, more = run(path.stem, ckpt_path=path)
        assert rates(more) == rates(rows)[-len(rates(more)) :], path.stem
        weights = resumed.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items()), path.stem


def test_the_rate_of_a_run_that_goes_on_with_other_batches_ends_with_its_last_step(kit, tmp_path):
    before, rows = kit.logged(lambda: kit.sft(batch_size=4), tmp_path / "before", max_epochs=1)
    assert rates(rows) == falling(3)
    path = tmp_path / "end.ckpt"
    before.trainer.save_checkpoint(path)
    _, rows = kit.logged(lambda: kit.sft(batch_size=2), tmp_path / "after", ckpt_path=path, max_epochs=3)
    assert rates(rows) == pytest.approx([1e-2 * (1 - step / 15) for step in range(3, 15)])
