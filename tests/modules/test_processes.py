"""Two processes, replicated or sharded, do what one does."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("processes.py")
STRATEGIES = pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])


def started(folder, scenario, strategy, devices):
    """Runs the script; one that hangs is ended with all its processes."""
    command = [sys.executable, str(SCRIPT), str(folder), scenario, strategy, str(devices)]
    with (
        (folder / "said.txt").open("w+") as said,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True) as process,
    ):
        try:
            process.wait(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return process.returncode, said.read()


def finished(*arguments):
    code, said = started(*arguments)
    assert code == 0, said[-3000:]


def trained(folder, strategy, devices):
    finished(folder, "trained", strategy, devices)
    return {
        stage: (
            load_file(folder / stage / "model" / "model.safetensors"),
            torch.load(folder / stage / "metrics.pt", weights_only=True),
        )
        for stage in ("sft", "reward", "ppo", "lora")
    }


def measured(folder, strategy, devices):
    finished(folder, "measured", strategy, devices)
    return {path.parent.name: torch.load(path, weights_only=True) for path in folder.glob("*/measured.pt")}


@pytest.fixture(scope="module")
def trained_alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"), "auto", 1)


@pytest.fixture(scope="module")
def measured_alone(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("measured"), "auto", 1)


@STRATEGIES
def test_two_processes_end_with_the_weights_and_metrics_of_one(trained_alone, tmp_path, strategy):
    together = trained(tmp_path, strategy, 2)
    for stage, (weights, metrics) in trained_alone.items():
        found, logged = together[stage]
        assert found.keys() == weights.keys()
        for name, weight in weights.items():
            # Adam divides by the gradient's own size: rounding shows where a gradient is next to nothing
            torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-3, msg=f"{stage} {name}")
        # of PPO an update takes the whole rollout here: minibatches are drawn within each rank
        assert logged.keys() == metrics.keys()
        exact = [name for name in metrics if "greedy" not in name]  # near-ties of a greedy choice turn on rounding
        for name in exact:
            assert logged[name] == pytest.approx(metrics[name], abs=2e-3, nan_ok=True), (stage, name)


@STRATEGIES
def test_two_processes_have_the_gradient_moments_coefficient_and_metrics_of_one_on_the_same_rows(
    measured_alone, tmp_path, strategy
):
    """The same global minibatch on both sides, with the same weights in every step."""
    together = measured(tmp_path, strategy, 2)
    assert together.keys() == measured_alone.keys() >= {"sft", "reward", "ppo", "ppo shared", "ppo by lora"}
    for stage, alone in measured_alone.items():
        found = together[stage]
        assert len(found["gradients"]) == len(alone["gradients"]) >= 4
        for step, (grads, expected) in enumerate(zip(found["gradients"], alone["gradients"], strict=True)):
            assert grads.keys() == expected.keys()
            assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
            for name, gradient in expected.items():
                torch.testing.assert_close(
                    grads[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda text, at=(stage, step, name): f"{at} {text}"
                )
        for place, moments in enumerate(alone["moments"]):
            assert found["moments"][place] == pytest.approx(moments, rel=1e-5, abs=1e-5), (stage, place)
        assert len(found["moments"]) == len(alone["moments"])
        assert found["metrics"].keys() == alone["metrics"].keys()
        for name, value in alone["metrics"].items():
            assert found["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True), (stage, name)
        if alone["kl_coef"] is not None:
            bounds = 0.05 * 1.32 * 0.68, 0.05 * 0.68 * 0.68  # where the KL itself makes no difference
            assert min(abs(alone["kl_coef"] - bound) for bound in bounds) > 1e-3
            assert found["kl_coef"] == pytest.approx(alone["kl_coef"], rel=1e-5)
        for record, expected in zip(found["watched"], alone["watched"], strict=True):
            assert flat(record) == pytest.approx(flat(expected), rel=1e-5, abs=1e-5)


def flat(record):
    named = {f"{key}/{name}": value for key in ("heldout", "heldout_deviation") for name, value in record[key].items()}
    return named | {key: value for key, value in record.items() if isinstance(value, int | float)}


@STRATEGIES
def test_a_rank_whose_responses_are_short_waits_for_the_others_and_stops_its_updates_with_them(tmp_path, strategy):
    finished(tmp_path, "uneven", strategy, 2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["lengths"], second["lengths"]) == ([1], [8])
    assert first["steps"] == second["steps"] > 0
    assert first["skipped"] == second["skipped"] > 0
    assert first["watched"] == second["watched"]
    assert first["watched"][0]["stop_rate"] == 0.5
    assert (tmp_path / "checkpoints" / "best" / "config.json").is_file()


@STRATEGIES
def test_a_rank_that_fails_ends_the_others(tmp_path, strategy):
    code, said = started(tmp_path, "failing", strategy, 2)
    assert code != 0
    assert "no answer in this rank" in said
    assert not (tmp_path / "model").exists()
