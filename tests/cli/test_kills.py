"""Whatever ends a run, what it left is whole, and resumed it is bit for bit the run that nothing ended."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.long

STANDIN = Path(__file__).parent / "standin"

TINY = {"class_path": "tiny", "init_args": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
LORA = {"class_path": "LoRA", "init_args": {"rank": 2}}


def source(path):
    return {"class_path": "file", "init_args": {"path": path, "val_fraction": 0.25}}


def sft(data=None, **options):
    model = {"base": TINY, "learning_rate": 0.01, "max_response_length": 4, **options}
    rows = {"source": source("demonstrations.jsonl"), "batch_size": 2, "max_length": 64, **(data or {})}
    return ("SFTModule", model), ("DemonstrationData", rows)


def reward(data=None, **options):
    rows = {"source": source("rankings.jsonl"), "batch_size": 2, "max_length": 64, **(data or {})}
    return ("RewardModule", {"base": TINY, "learning_rate": 0.01, **options}), ("RankingData", rows)


def ppo(data=None, **options):
    model = {
        "base": TINY,
        "rewards": [{"class_path": "repetition"}],
        "learning_rate": 0.01,
        "rollout_size": 8,
        "minibatch_size": 2,
        "num_epochs": 2,
        "max_response_length": 6,
        "kl_controller": {"class_path": "AdaptiveKL", "init_args": {"target": 0.1, "horizon": 20}},
        "score_normalizer": {"class_path": "lightning_rlhf.rollout.ScoreNormalizer"},
        **options,
    }
    return ("PPOModule", model), ("PromptData", {"source": source("prompts.jsonl"), "batch_size": 4, **(data or {})})


RUNS = {
    "sft": (sft(), {"val_check_interval": 5}),
    "sft by lora in bf16 with workers": (
        sft(adapter={"class_path": "LoRA", "init_args": {"rank": 2, "dropout": 0.2}}, data={"num_workers": 2}),
        {"val_check_interval": 5, "precision": "bf16-mixed"},
    ),
    "reward": (reward(centering_coef=0.1), {"val_check_interval": 5}),
    "reward by lora in bf16 with workers": (
        reward(adapter=LORA, data={"num_workers": 2}),
        {"val_check_interval": 5, "precision": "bf16-mixed"},
    ),
    "ppo": (ppo(ptx_coef=0.1, data={"ptx_source": source("demonstrations.jsonl")}), {"val_check_interval": 4}),
    "ppo by lora in bf16": (ppo(adapter=LORA), {"val_check_interval": 3, "precision": "bf16-mixed"}),
}


class Place:
    """A folder with rows and configs, and a process that has imported everything to start runs from."""

    def __init__(self, folder):
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["lightning_rlhf.cli.lightning", "lightning_rlhf.modules"])
        files = {
            "demonstrations": lambda row: {"prompt": f"count to {row}\n", "response": "ab" * (1 + row % 5)},
            "rankings": lambda row: {
                "prompt": f"say {row}\n",
                "chosen": "ab" * (1 + row % 4),
                "rejected": "c" * (1 + row % 3),
            },
            "prompts": lambda row: {"prompt": f"count to {row}\n"},
        }
        for name, line in files.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line(row)) + "\n" for row in range(32)))
        for name, ((model, data), trainer) in RUNS.items():
            config = {
                "seed_everything": 1,
                "model": {"class_path": model[0], "init_args": model[1]},
                "data": {"class_path": data[0], "init_args": data[1]},
                "trainer": {
                    "accelerator": "cpu",
                    "max_epochs": 2,
                    "accumulate_grad_batches": 2,
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                    **trainer,
                },
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))

    def run(self, name, root, *words, **environment):
        """The exit code of a process that runs `fit`; a negative one is the signal that ended it."""
        import child_run

        words = ["fit", "--config", f"{name}.yaml", "--trainer.default_root_dir", root, "--ckpt_path", "last", *words]
        process = self.context.Process(target=child_run.run, args=(words, str(self.folder), f"{root}.log", environment))
        process.start()
        process.join()
        return process.exitcode

    def whole(self, name):
        """The root of the run that nothing ended."""
        root = f"whole {name}"
        if not (self.folder / root).exists():
            assert self.run(name, root) == 0, self.printed(root)
        return root

    def printed(self, root):
        return (self.folder / f"{root}.log").read_text()

    def assert_same(self, root, other):
        """Weights, logged numbers and samples are the same, bit for bit, and nothing half-written is left."""
        root, other = self.folder / root, self.folder / other
        found, expected = (load_file(path / "model" / "model.safetensors") for path in (root, other))
        assert found.keys() == expected.keys()
        assert all(found[key].equal(value) for key, value in expected.items())
        for name in ("metrics.csv", "samples.jsonl"):
            assert (root / name).read_bytes() == (other / name).read_bytes(), name
        assert {path.name for path in root.iterdir()} == {path.name for path in other.iterdir()}
        assert [path.name for path in (root / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    sys.path.append(str(STANDIN))
    yield Place(tmp_path_factory.mktemp("kills"))
    sys.path.remove(str(STANDIN))


def signalled(hook, count=1, number=signal.SIGKILL, delay_s=0.0):
    """The words that have a run send itself a signal."""
    words = [f"hook={hook}", f"count={count}", f"number={int(number)}", f"delay_s={delay_s}"]
    return ["--trainer.callbacks+=moments.Signal", *(f"--trainer.callbacks.{word}" for word in words)]


def test_a_ppo_run_that_is_killed_within_an_iteration_goes_on_as_if_it_had_not_been(place):
    whole = place.whole("ppo")
    assert place.run("ppo", "killed", *signalled("on_before_optimizer_step", 3)) == -signal.SIGKILL
    assert place.run("ppo", "killed") == 0
    place.assert_same("killed", whole)


def test_sigterm_ends_a_run_after_its_accumulation_window_with_its_own_exit_code(place):
    whole = place.whole("sft")
    assert place.run("sft", "terminated", *signalled("on_train_batch_start", 7, signal.SIGTERM)) == 143
    assert "lightning-rlhf: terminated after step 4: go on with --ckpt_path terminated/checkpoints/last.ckpt" in (
        place.printed("terminated")
    )
    assert place.run("sft", "terminated") == 0
    place.assert_same("terminated", whole)


def test_a_full_disk_ends_a_run_with_a_message_and_leaves_the_last_whole_checkpoint(place):
    small = ["--trainer.callbacks+=moments.SmallDisk", "--trainer.callbacks.epoch=1", "--trainer.callbacks.size=30000"]
    assert place.run("sft", "full", *small) == 2
    printed = place.printed("full")
    assert "last.ckpt must be usable, got: File too large. Raise the limit on the size of files" in printed
    assert "Traceback" not in printed
    root = place.folder / "full"
    assert torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["last.ckpt"]
    assert place.run("sft", "full") == 0
    place.assert_same("full", place.whole("sft"))


@pytest.mark.slow
def test_slurms_requeue_waits_for_the_end_of_the_step_and_the_job_goes_on_from_there(place, tmp_path):
    whole = place.whole("sft")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = signalled("on_train_batch_start", 16, signal.SIGUSR1) + signalled("on_train_batch_start", 19)
    assert place.run("sft", "job", *words, **job) == -signal.SIGKILL
    assert (tmp_path / "called").read_text() == "requeue 7\n"
    requeued = place.folder / "job" / "hpc_ckpt_1.ckpt"
    assert torch.load(requeued, weights_only=True)["global_step"] == 8
    assert place.run("sft", "job", **job) == 0
    requeued.unlink()
    place.assert_same("job", whole)


MOMENTS = [
    ("on_train_batch_start", 6),
    ("on_train_batch_end", 5),
    ("on_train_batch_end", 8),
    ("on_validation_start", 1),
    ("on_validation_start", 2),
    ("on_validation_batch_end", 3),
    ("on_validation_end", 2),
    ("on_save_checkpoint", 2),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_start", 2),
    ("on_train_end", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("hook", "count"), MOMENTS)
@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_at_every_moment_of_a_run_it_may_be_cut_off(place, name, hook, count, number):
    whole = place.whole(name)
    root = f"{name} {hook} {count} {number}"
    ended = place.run(name, root, *signalled(hook, count, number))
    if number == signal.SIGTERM:  # at the very end there is nothing left to end
        assert ended == (0 if hook == "on_train_end" else 143)
    else:
        assert ended == -signal.SIGKILL
    assert place.run(name, root) == 0
    place.assert_same(root, whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # many processes one after the other, on whatever else the machine does
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_may_be_cut_off_at_random_moments_again_and_again(place, name, number):
    whole = place.whole(name)
    root, draw = f"{name} at random {number}", random.Random(name)
    ends = []
    while not ends or (ends[-1] != 0 and len(ends) < 8):
        words = signalled("on_train_batch_start", 1, number, delay_s=draw.uniform(0.01, 0.8)) if len(ends) < 7 else []
        ends.append(place.run(name, root, *words))
    assert ends[-1] == 0
    assert set(ends[:-1]) <= {-number, 128 + number}
    place.assert_same(root, whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_stop_at_the_same_step_and_go_on_exactly_and_only_two_of_them(place):
    def run(root, *words, devices=2):
        command = [sys.executable, "-m", "lightning_rlhf", "fit", "--config", "ppo.yaml", "--trainer.strategy=ddp"]
        command += [f"--trainer.devices={devices}", f"--trainer.default_root_dir={root}", "--ckpt_path=last", *words]
        environment = {**os.environ, "PYTHONPATH": str(STANDIN)}
        return subprocess.run(command, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=280)

    assert run("two whole").returncode == 0
    assert run("two", *signalled("on_train_batch_start", 12, signal.SIGTERM)).returncode == 143
    alone = run("two", devices=1)
    assert alone.returncode == 2
    assert "a run that was cut off within an iteration must be resumed on 2 ranks, got 1" in alone.stderr
    assert run("two").returncode == 0
    place.assert_same("two", "two whole")
