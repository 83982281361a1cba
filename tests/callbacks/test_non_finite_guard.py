"""What is no number never reaches the weights."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lightning_rlhf.callbacks import NonFiniteGuard
from lightning_rlhf.errors import ConfigError, DivergenceError


class Line(L.LightningModule):
    """A line whose loss or gradient is spoilt at chosen batches."""

    def __init__(self, losses=None, gradients=None):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.losses, self.gradients = losses or {}, gradients or {}
        self.seen = []
        self.factor = 1.0

    def training_step(self, batch, batch_idx):
        loss = self.line(torch.ones(1, 1)).square().sum()
        if batch_idx in self.losses:
            loss = loss * self.losses[batch_idx]
        if batch_idx in self.gradients:
            self.line.weight.register_hook(lambda gradient: gradient * self.gradients.pop(batch_idx, 1.0))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)

    def on_train_batch_end(self, *args):
        self.seen.append(self.line.weight.item())

    def computed_on(self, batch):
        return self.line(torch.ones(1, 1)) * self.factor

    def sum_over_ranks(self, value):
        return value

    def gather_over_ranks(self, own):
        return [own]

    def describe_batch(self, batch_idx):
        return f"rows mine.jsonl:{batch_idx + 1}"


def fit(module, guard, *, num_batches=4, plugins=None, callbacks=(), **options):
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[guard, *callbacks],
        plugins=plugins,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(num_batches, 1)))
    return trainer


pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run_with_rows_and_step_and_weights_as_they_were(value):
    module = Line(losses={2: value})
    with pytest.raises(
        DivergenceError, match=rf"the loss must be finite, got {value} in step 2, epoch 0: rows mine.jsonl:3\."
    ):
        fit(module, NonFiniteGuard())
    assert module.line.weight.item() == module.seen[-1]
    assert len(module.seen) == 2


def test_a_gradient_that_is_no_number_stops_the_run_with_the_weight_named():
    module = Line(gradients={1: math.nan})
    with pytest.raises(
        DivergenceError, match=r"the gradient must be finite, got another one for line.weight in step 1"
    ):
        fit(module, NonFiniteGuard())


def test_of_an_accumulation_window_the_batch_is_named_and_none_of_it_is_learned():
    module = Line(losses={3: math.nan})
    with pytest.raises(DivergenceError, match=r"in step 1, epoch 0: rows mine.jsonl:4\."):
        fit(module, NonFiniteGuard(), num_batches=6, accumulate_grad_batches=3)
    assert module.line.weight.item() == module.seen[-1]


def test_a_step_is_left_out_and_counted_when_asked_for():
    module, guard = Line(losses={1: math.nan}), NonFiniteGuard("skip")
    trainer = fit(module, guard)
    assert module.seen[0] == module.seen[1] != module.seen[2]
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert guard.state_dict() == {"num_skipped": 1, "in_a_row": 0}
    again = NonFiniteGuard("skip")
    again.load_state_dict(guard.state_dict())
    assert again.num_skipped == 1


def test_leaving_out_step_after_step_comes_to_an_end():
    module = Line(losses=dict.fromkeys(range(1, 9), math.nan))
    guard = NonFiniteGuard("skip", max_in_a_row=3)
    with pytest.raises(DivergenceError, match="step 4"):
        fit(module, guard, num_batches=9)
    assert guard.num_skipped == 3


def test_gradient_clipping_does_not_hide_what_is_no_number():
    with pytest.raises(DivergenceError, match="the gradient must be finite"):
        fit(Line(gradients={1: math.inf}), NonFiniteGuard(), gradient_clip_val=1.0)


def scaled(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_an_overflow_is_left_to_the_scaler_of_half_precision():
    module = Line(gradients={1: math.inf})
    plugin = scaled(64.0)
    fit(module, NonFiniteGuard(), plugins=[plugin])
    assert plugin.scaler.get_scale() == 32.0
    assert module.seen[0] == module.seen[1] != module.seen[2]


def test_a_gradient_that_is_no_number_at_any_scale_is_no_overflow():
    with pytest.raises(DivergenceError, match="the gradient must be finite"):
        fit(Line(gradients={1: math.nan}), NonFiniteGuard(), plugins=[scaled(0.5)])


def test_a_loss_that_is_no_number_is_none_under_half_precision_either():
    with pytest.raises(DivergenceError, match="the loss must be finite"):
        fit(Line(losses={1: math.nan}), NonFiniteGuard(), plugins=[scaled(64.0)])


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    module, guard = Line(), NonFiniteGuard()
    trainer = fit(module, guard)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    with torch.no_grad():
        module.line.bias.fill_(math.inf)
    with pytest.raises(DivergenceError, match=r"the weights must be finite to be saved, got others in line.bias"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["good.ckpt"]
    with pytest.raises(DivergenceError, match="the weights"):
        guard.on_train_end(trainer, module)


@pytest.mark.parametrize(
    ("options", "message"), [({"action": "warn"}, "one of stop, skip"), ({"max_in_a_row": 0}, "at least 1")]
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        NonFiniteGuard(**options)


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("weights_only", [False, True])
def test_weights_that_compute_no_numbers_are_not_saved(tmp_path, factor, weights_only):
    class AtTheEnd(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            module.factor = factor
            trainer.save_checkpoint(tmp_path / "bad.ckpt", weights_only)

    module = Line()
    module.on_save_checkpoint = lambda checkpoint: guard.check_weights(module)  # as the stages do
    guard = NonFiniteGuard()
    with pytest.raises(DivergenceError, match=r"what the weights compute must be finite for them to be saved, got nan"):
        fit(module, guard, callbacks=[AtTheEnd()])
    assert not any(tmp_path.iterdir())
