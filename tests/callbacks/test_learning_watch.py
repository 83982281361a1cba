"""A run that learns nothing says so, and leaves no model."""

import warnings

import lightning as L
import pytest
import torch
from torch import nn

from lightning_rlhf.callbacks import LearningWatch
from lightning_rlhf.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


class Line(L.LightningModule):
    """A line that learns in the steps that are named."""

    def __init__(self, *learns_in):
        super().__init__()
        self.line, self.other = nn.Linear(1, 1), nn.Linear(1, 1)
        self.learns_in = learns_in

    def training_step(self, batch, batch_idx):
        point = torch.ones(1, 1)
        factor = float(self.global_step in self.learns_in)
        return self.line(point).square().sum() * factor + self.other(point).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD([{"params": self.line.parameters()}, {"params": self.other.parameters()}], lr=0.1)

    def sum_over_ranks(self, value):
        return value


def fit(module, watch=None, num_batches=2, **options):
    trainer = L.Trainer(
        **{"max_epochs": 2} | options,
        accelerator="cpu",
        callbacks=[watch or LearningWatch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(num_batches, 1)))
    return trainer


def test_every_epoch_without_a_gradient_is_told_and_counted_and_a_run_of_them_is_an_error():
    with (
        pytest.warns(UserWarning, match="nothing was learned") as told,
        pytest.raises(DataError, match=r"a run must learn something .* got 2 epochs"),
    ):
        fit(Line())
    messages = [str(each.message) for each in told if "nothing was learned" in str(each.message)]
    assert [message.partition(":")[0] for message in messages] == [f"nothing was learned in epoch {e}" for e in (0, 1)]
    assert [message[-2:] for message in messages] == ["1.", "2."]


def test_one_step_is_enough_for_a_run_and_its_epoch_is_not_told_of():
    watch = LearningWatch()
    with pytest.warns(UserWarning, match="nothing was learned in epoch 0"):
        fit(Line(3), watch)
    assert watch.num_idle_epochs == 1


def test_a_run_that_learns_hears_nothing():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*learned")
        fit(Line(0, 2))


def test_a_trial_run_may_learn_nothing():
    with pytest.warns(UserWarning, match="nothing was learned"):
        fit(Line(), fast_dev_run=True)


def test_a_resumed_run_remembers_what_was_learned_before():
    first = LearningWatch()
    fit(Line(0), first, max_epochs=1)
    second = LearningWatch()
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="nothing was learned in epoch 0"):
        fit(Line(), second, max_epochs=1)
