"""The loader under a real Trainer: collected outside steps, saved and resumed in the middle of an iteration."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_rlhf.batches import Rollout
from lightning_rlhf.rollout import RolloutLoader

NUM_STEPS = 8  # of an iteration: 4 minibatches, twice


class Recorder(L.LightningModule):
    """A stateful stand-in for PPO: its rollout depends on its weight, its steps on the rollout."""

    def __init__(self, limit=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.limit = limit
        self.collected, self.seen = [], []

    def train_dataloader(self):
        self.loader = RolloutLoader(
            self.collect,
            num_rows=7,
            minibatch_size=2,
            num_epochs=2,
            accumulate=lambda: 3,
            seed=2,
            next_iteration=lambda: self.trainer.current_epoch,
            limit=self.limit,
        )
        return self.loader

    def collect(self, iteration):
        self.collected.append(iteration)
        mask = torch.ones(7, 2, dtype=torch.bool)
        numbers = mask * float(self.weight.detach()) * torch.arange(1, 8)[:, None]
        return Rollout(mask.long(), mask, mask.long(), mask, mask, numbers, numbers, numbers, numbers, numbers)

    def training_step(self, batch, batch_idx):
        numbers = self.loader.rollout.returns[batch.rows]
        self.seen.append((self.loader.iteration, batch.rows.tolist(), int(batch.num_targets), float(numbers.sum())))
        return (self.weight * numbers).sum() / batch.num_targets

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def fit(module: Recorder, path: Path, when: dict | None = None, ckpt_path: Path | None = None) -> Recorder:
    checkpoint = ModelCheckpoint(dirpath=path, save_top_k=-1, filename="{epoch}-{step}", **when) if when else None
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[] if checkpoint is None else [checkpoint],
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=3,
        limit_train_batches=module.limit,
        default_root_dir=path,
    )
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning")  # lightning's use of torch
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the resumed runs save nothing
@pytest.mark.parametrize("limit", [1.0, 5])
@pytest.mark.parametrize("when", [{"every_n_train_steps": 1}, {"every_n_epochs": 1, "save_on_train_epoch_end": True}])
def test_a_resumed_run_takes_the_steps_of_an_uninterrupted_one(tmp_path, when, limit):
    whole = fit(Recorder(limit), tmp_path, when)
    per_iteration = NUM_STEPS if limit == 1.0 else limit
    assert whole.collected == [0, 1, 2]
    assert len(whole.seen) == 3 * per_iteration
    windows = -(-per_iteration // 3)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == (3 * windows if "every_n_train_steps" in when else 3)
    for path in checkpoints:
        iteration, window = divmod(int(path.stem.split("step=")[1]), windows)
        resumed = fit(Recorder(limit), tmp_path, ckpt_path=path)
        assert resumed.seen == whole.seen[iteration * per_iteration + window * 3 :]
        assert resumed.collected == list(range(iteration + (window > 0), 3))
        assert torch.equal(resumed.weight, whole.weight)
