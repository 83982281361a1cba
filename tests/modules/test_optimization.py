"""Parameter groups and schedules."""

import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.modules.kl_controllers import AdaptiveKL, FixedKL
from lightning_rlhf.modules.optimization import adamw, check_schedule, learning_rate_schedule


def rates(kind, warmup_steps, num_steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule = learning_rate_schedule(optimizer, kind, warmup_steps=warmup_steps, num_steps=lambda: num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found, optimizer.param_groups[0]["lr"]


def test_schedules_warm_up_and_end_at_zero():
    assert rates("constant", 3, 6) == ([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], 1.0)
    assert rates("linear", 0, 4) == ([1.0, 0.75, 0.5, 0.25], 0.0)
    found, end = rates("linear", 1, 5)
    assert found == [0.5, 1.0, 0.75, 0.5, 0.25]
    assert end == 0.0
    found, end = rates("cosine", 0, 4)
    assert found == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)])
    assert end == pytest.approx(0.0)


def test_a_schedule_does_not_ask_for_the_number_of_steps_when_it_is_made():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)

    def asked():
        raise AssertionError

    learning_rate_schedule(optimizer, "linear", warmup_steps=0, num_steps=asked)


@pytest.mark.parametrize("num_steps", [math.inf, -1])
def test_a_schedule_with_an_end_needs_a_run_with_one(num_steps):
    with pytest.raises(ConfigError, match="must know the number of steps"):
        check_schedule("cosine", warmup_steps=0, num_steps=num_steps)


def test_vectors_are_not_decayed_and_frozen_weights_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1).requires_grad_(False))
    groups = adamw([{"params": model.parameters(), "lr": 0.1, "name": "policy"}], weight_decay=0.3).param_groups
    assert [(group["name"], group["weight_decay"], len(group["params"])) for group in groups] == [
        ("policy", 0.3, 1),
        ("policy/no_decay", 0.0, 3),
    ]


def test_the_step_is_fused_unless_gradients_are_scaled():
    model = nn.Linear(2, 3)
    groups = [{"params": list(model.parameters()), "lr": 0.1, "name": "policy"}]
    assert adamw(groups, weight_decay=0.0).defaults["fused"]
    assert not adamw(groups, weight_decay=0.0, scales_gradients=True).defaults["fused"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_trainer_clips_gradients_before_a_fused_step(precision):
    class Steep(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            return 1e4 * self.layer(batch).sum()

        def on_before_optimizer_step(self, optimizer):
            self.norm = nn.utils.get_total_norm([p.grad for p in self.parameters()])

        def configure_optimizers(self):
            return adamw([{"params": self.parameters(), "lr": 0.1, "name": "all"}], weight_decay=0.0)

        def configure_gradient_clipping(self, optimizer, **options):
            super().configure_gradient_clipping(optimizer, **options)
            self.clipped = nn.utils.get_total_norm([p.grad for p in self.parameters()])

    module = Steep()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_steps=1, gradient_clip_val=1.0, precision=precision, accelerator="cpu", enable_model_summary=False, **quiet
    )
    trainer.fit(module, DataLoader(torch.ones(1, 4)))
    assert module.norm > 1e3
    assert float(module.clipped) == pytest.approx(1.0, abs=0.02)


def test_the_adaptive_coefficient_is_clipped_to_a_fifth_and_scaled_by_the_sequences():
    controller = AdaptiveKL(target=2.0, horizon=100)
    assert controller.update(1.0, kl=2.2, num_sequences=50) == pytest.approx(1 + 0.1 * 0.5)
    assert controller.update(1.0, kl=200.0, num_sequences=50) == pytest.approx(1.1)
    assert controller.update(1.0, kl=-5.0, num_sequences=50) == pytest.approx(0.9)
    assert FixedKL().update(0.3, kl=9.0, num_sequences=1) == 0.3


@pytest.mark.parametrize("options", [{"target": 0.0}, {"horizon": 0}])
def test_a_controller_that_cannot_steer_is_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} of AdaptiveKL must"):
        AdaptiveKL(**options)


def test_adaptive_kl_never_takes_the_coefficient_below_zero():
    assert AdaptiveKL(target=6.0, horizon=13).update(0.1, kl=0.0, num_sequences=64) > 0
    with pytest.raises(ConfigError, match=r"more than a fifth of an iteration's responses \(65\), got 13"):
        AdaptiveKL(target=6.0, horizon=13).update(0.1, kl=0.0, num_sequences=65)
