"""Two processes, replicated or sharded, end where one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("processes.py")


def run(folder, strategy, devices):
    outcome = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), strategy, str(devices)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    stages = ("sft", "reward", "ppo", "lora")
    return {
        stage: (
            load_file(folder / stage / "model" / "model.safetensors"),
            torch.load(folder / stage / "metrics.pt", weights_only=True),
        )
        for stage in stages
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), "auto", 1)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_end_with_the_weights_and_metrics_of_one(alone, tmp_path, strategy):
    together = run(tmp_path, strategy, 2)
    for stage, (weights, metrics) in alone.items():
        found, measured = together[stage]
        assert found.keys() == weights.keys()
        for name, weight in weights.items():
            # Adam divides by the gradient's own size: rounding shows where a gradient is next to nothing
            torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-3, msg=f"{stage} {name}")
        # of PPO an update takes the whole rollout here: minibatches are drawn within each rank
        assert measured.keys() == metrics.keys()
        exact = [name for name in metrics if "greedy" not in name]  # near-ties of a greedy choice turn on rounding
        for name in exact:
            assert measured[name] == pytest.approx(metrics[name], abs=2e-3, nan_ok=True), (stage, name)
