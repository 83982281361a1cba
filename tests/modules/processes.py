"""Runs the three stages on one process or several, and writes what they end with. A script: Lightning starts it again.

python processes.py FOLDER STRATEGY DEVICES
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

warnings.filterwarnings("ignore")
_spec = importlib.util.spec_from_file_location("kit", Path(__file__).with_name("conftest.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


def strategy(name: str, devices: int) -> Any:
    if name == "ddp":
        return DDPStrategy(process_group_backend="gloo")
    if name == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=devices, tensor_parallel_size=1, process_group_backend="gloo")
    return "auto"


def main(folder: str, name: str, devices: int) -> None:
    kit = _module.Kit()
    # the same rows per step on all ranks together; 20 rows leave a short last window
    share = 8 // devices
    rows = {"train": 20, "validation": 4}
    runs = {
        "sft": lambda: kit.sft(batch_size=share // 2, lm_coef=0.2, data={"source": kit.Demonstrations(**rows)}),
        "reward": lambda: kit.reward(batch_size=share // 2, data={"source": kit.Rankings(**rows)}),
        "ppo": lambda: kit.ppo(
            rollout_size=16 // devices, minibatch_size=share, kl_coef=0.1, target_kl=10.0, num_epochs=2
        ),
        "lora": lambda: kit.ppo(
            rollout_size=16 // devices,
            minibatch_size=share,
            num_epochs=2,
            adapter=kit.LoRA(rank=2),
            target_kl=1e-9,
        ),
    }
    for stage, build in runs.items():
        L.seed_everything(1, verbose=False)
        path = Path(folder) / stage
        trainer = kit.fit(
            build(),
            path,
            max_epochs=2,
            accumulate_grad_batches=2,
            devices=devices,
            strategy=strategy(name, devices),
        )
        if trainer.is_global_zero:
            torch.save({key: float(value) for key, value in trainer.callback_metrics.items()}, path / "metrics.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
