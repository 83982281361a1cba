"""A long PPO run takes no more memory than a short one."""

import csv
import gc
import json
import subprocess
import sys
import textwrap

import lightning as L
import pytest
import torch

from lightning_rlhf.callbacks import CollapseWatch

MEASURED = """
import psutil
from lightning.pytorch.callbacks import Callback

class Measured(Callback):
    '''Writes the memory of the process after each iteration.'''

    def on_train_epoch_end(self, trainer, pl_module):
        with open("memory.csv", "a") as lines:
            lines.write(f"{trainer.current_epoch},{psutil.Process().memory_info().rss}\\n")
"""

CONFIG = """
seed_everything: 1
model:
  class_path: PPOModule
  init_args:
    base: {class_path: tiny, init_args: {hidden_size: 16, num_layers: 1, num_heads: 2}}
    rewards: [length]
    rollout_size: 16
    minibatch_size: 16
    num_epochs: 1
    max_response_length: 8
    score_normalizer: {class_path: ScoreNormalizer}
    kl_controller: {class_path: AdaptiveKL, init_args: {target: 1.0, horizon: 1000}}
data:
  class_path: PromptData
  init_args:
    source: {class_path: file, init_args: {path: prompts.jsonl, val_fraction: 0.2}}
    batch_size: 16
trainer:
  default_root_dir: run
  accelerator: cpu
  max_epochs: 300
  check_val_every_n_epoch: 10
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
  - class_path: memory.Measured
  - class_path: CollapseWatch
    init_args: {heldout_rewards: [repetition]}
"""


@pytest.mark.slow
def test_300_iterations_grow_the_process_by_less_than_a_twentieth_after_the_first_50(tmp_path):
    """With all that the command line brings: loggers, checkpoints, samples, and a watch."""
    (tmp_path / "memory.py").write_text(MEASURED)
    (tmp_path / "config.yaml").write_text(textwrap.dedent(CONFIG))
    rows = [json.dumps({"prompt": f"Say {row}."}) for row in range(64)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "lightning_rlhf", "fit", "--config", "config.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "memory.csv").open() as lines:
        memory = [int(size) for _, size in csv.reader(lines)]
    assert len(memory) == 300
    assert max(memory[50:]) < 1.05 * memory[49], f"{memory[49]} bytes after 50 iterations, then {max(memory[50:])}"


class Tensors(L.Callback):
    """How many tensors live after each iteration, and their size."""

    def __init__(self):
        self.counts = []

    def on_train_epoch_end(self, trainer, pl_module):
        gc.collect()
        # the type, not isinstance: that asks each object, and some of torch warn when they are asked
        alive = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        self.counts.append((len(alive), sum(each.nbytes for each in alive)))


@pytest.mark.filterwarnings("ignore:all 8 responses of iteration")  # of one token each: some get equal scores
def test_no_tensor_outlives_its_iteration(kit, tmp_path):
    tensors = Tensors()
    options = {"max_response_length": 1, "num_epochs": 1}  # responses of one length: rollouts of one size
    kit.fit(kit.ppo(**options), tmp_path, max_epochs=8, callbacks=[tensors, CollapseWatch([kit.LowerCase()])])
    assert tensors.counts[2:] == tensors.counts[2:3] * 6
