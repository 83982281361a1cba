"""Runs the stages on one process or several, and writes what there is to compare. A script: Lightning starts it again.

python processes.py FOLDER SCENARIO STRATEGY DEVICES
"""

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM

from lightning_rlhf.callbacks import CollapseWatch
from lightning_rlhf.modules import AdaptiveKL
from lightning_rlhf.plugin_system.interfaces import ModelSource, RewardFunction
from lightning_rlhf.rollout import ScoreNormalizer, collection

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


def fit(run: Any, path: Path, name: str, devices: int, **options: Any) -> L.Trainer:
    L.seed_everything(1, verbose=False)
    placed = {"devices": devices, "strategy": strategy(name, devices)}
    return _module.Kit().fit(run, path, accumulate_grad_batches=2, **placed, **options)


def trained(folder: Path, name: str, devices: int) -> None:
    """All stages with a learning rate: the models and metrics that they end with."""
    kit = _module.Kit()
    # the same rows per step on all ranks together; 20 rows leave a short last window
    share = 8 // devices
    rows = {"train": 20, "validation": 4}
    ppo = {"rollout_size": 16 // devices, "minibatch_size": share, "num_epochs": 2}
    runs: dict[str, Callable[[], Any]] = {
        "sft": lambda: kit.sft(batch_size=share // 2, lm_coef=0.2, data={"source": kit.Demonstrations(**rows)}),
        "reward": lambda: kit.reward(batch_size=share // 2, data={"source": kit.Rankings(**rows)}),
        "ppo": lambda: kit.ppo(kl_coef=0.1, target_kl=10.0, **ppo),
        "lora": lambda: kit.ppo(adapter=kit.LoRA(rank=2), target_kl=1e-9, **ppo),
    }
    for stage, build in runs.items():
        trainer = fit(build(), folder / stage, name, devices, max_epochs=2)
        if trainer.is_global_zero:
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            torch.save(metrics, folder / stage / "metrics.pt")


class Gradients(L.Callback):
    """The whole gradient of every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        named = {name: weight.grad for name, weight in pl_module.named_parameters() if weight.grad is not None}
        whole = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in named.items()}
        self.steps.append({name: grad.detach().clone() for name, grad in whole.items()})


def measured(folder: Path, name: str, devices: int) -> None:
    """All stages without a learning rate: gradients of the same global rows, moments, coefficients, metrics."""
    kit = _module.Kit()
    share = 8 // devices
    rows = {"train": 20, "validation": 4}

    def ppo(**options: Any) -> Any:
        # an update takes the whole rollout: minibatches are drawn within each rank
        options = {"minibatch_size": share, "num_epochs": 2, "learning_rate": 0.0, **options}
        options |= {"kl_controller": AdaptiveKL(target=0.09, horizon=10), "score_normalizer": ScoreNormalizer()}
        return kit.ppo(rollout_size=16 // devices, reference=kit.model(seed=2), missing_stop_penalty=0.3, **options)

    runs: dict[str, Callable[[], Any]] = {
        "sft": lambda: kit.sft(
            batch_size=share // 2, lm_coef=0.2, learning_rate=0.0, data={"source": kit.Demonstrations(**rows)}
        ),
        "reward": lambda: kit.reward(
            batch_size=share // 2, centering_coef=0.1, learning_rate=0.0, data={"source": kit.Rankings(**rows)}
        ),
        "ppo": ppo,
        "ppo shared": lambda: ppo(value_model="shared"),
        "ppo by lora": lambda: ppo(adapter=kit.LoRA(rank=2)),
    }
    global_moments = collection.global_moments
    for stage, build in runs.items():
        gradients, moments = Gradients(), []

        def recorded(*arguments: Any, moments: list[Any] = moments) -> Any:
            moments.append(global_moments(*arguments))
            return moments[-1]

        collection.global_moments = recorded
        watch = [CollapseWatch([kit.LowerCase()], max_kl=None)] if stage.startswith("ppo") else []
        run = build()
        trainer = fit(run, folder / stage, name, devices, max_epochs=2, callbacks=[gradients, *watch])
        if trainer.is_global_zero:
            result = {
                "gradients": gradients.steps,
                "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
                "moments": [list(each) for each in moments],
                "kl_coef": getattr(run[0], "kl_coef", None),
                "watched": [record.state() for each in watch for record in each.records],
            }
            torch.save(result, folder / stage / "measured.pt")


class HastyModel(LlamaForCausalLM):
    """Stops at once in rank 0, and never in the others."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        stop = torch.zeros_like(output.logits)
        stop[..., self.config.eos_token_id] = 1e4 if os.environ.get("LOCAL_RANK", "0") == "0" else -1e4
        output.logits = output.logits + stop
        return output


class Hasty(ModelSource):
    def load(self) -> Any:
        model, tokenizer = _module.Kit.model().load()
        model.__class__ = HastyModel
        return model, tokenizer


def uneven(folder: Path, name: str, devices: int) -> None:
    """PPO where one rank has sampled after one token, and where its share alone would not exceed target_kl."""
    kit = _module.Kit()
    watch = CollapseWatch([kit.LowerCase()], on_collapse="best")
    options = {"target_kl": 1e-4, "num_epochs": 3, "minibatch_size": 2, "learning_rate": 0.05}
    run = kit.ppo(base=Hasty(), max_response_length=8, **options)
    trainer = fit(run, folder, name, devices, max_epochs=3, callbacks=[watch])
    rollout = run[0]._loader.rollout
    result = {
        "lengths": sorted(set(rollout.completion_mask.sum(-1).tolist())),
        "steps": trainer.global_step,
        "skipped": float(trainer.callback_metrics["policy/skipped_share"]),
        "watched": [record.state() for record in watch.records],
    }
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps(result))


class FailsInOne(RewardFunction):
    """Raises in the last rank, in the second iteration."""

    calls = 0

    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        self.calls += 1
        if self.calls > 1 and os.environ.get("LOCAL_RANK", "0") != "0":
            raise RuntimeError("no answer in this rank")
        return [0.0 for _ in responses]


def failing(folder: Path, name: str, devices: int) -> None:
    """PPO whose reward function fails in one rank."""
    run = _module.Kit().ppo(rewards=[FailsInOne()])
    fit(run, folder, name, devices, max_epochs=3, limit_val_batches=0, num_sanity_val_steps=0)


SCENARIOS = {"failing": failing, "measured": measured, "trained": trained, "uneven": uneven}

if __name__ == "__main__":
    SCENARIOS[sys.argv[2]](Path(sys.argv[1]), sys.argv[3], int(sys.argv[4]))
