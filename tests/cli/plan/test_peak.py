"""The estimate against what runs take: each run in a process of its own, which nothing has used memory in before."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.cli.main import KERNEL_CACHES

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc"),
]
CHILD = Path(__file__).with_name("peak_of_run.py")
RUNS = {
    "sft": ("SFTModule", {}, "DemonstrationData", {"batch_size": 8}),
    "reward": ("RewardModule", {}, "RankingData", {"batch_size": 4}),
    "ppo": (
        "PPOModule",
        {
            "rewards": ["repetition"],
            "rollout_size": 16,
            "minibatch_size": 8,
            "num_epochs": 2,
            "max_response_length": 32,
        },
        "PromptData",
        {"batch_size": 16},
    ),
}
LORA = {"class_path": "LoRA", "init_args": {"rank": 8}}


@pytest.fixture(scope="module", params=[12288, pytest.param(32768, marks=pytest.mark.slow)])
def folder(request, tmp_path_factory):
    """A model of 7 or 15 million numbers whose vocabulary makes logits count, the larger in pieces, and rows for it."""
    folder = tmp_path_factory.mktemp("peak")
    _, tokenizer = TinyModel(hidden_size=16, num_layers=1, num_heads=2).load()
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=request.param, **shape, **ids)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    dice = random.Random(0)

    def words(least, most):
        return "".join(dice.choice("abcdefgh ") for _ in range(dice.randint(least, most)))

    rows = {
        "sft": [{"prompt": words(20, 60), "response": words(20, 60)} for _ in range(64)],
        "reward": [
            {"prompt": words(20, 60), "responses": [words(20, 60) for _ in range(3)], "ranks": [0, 1, 2]}
            for _ in range(64)
        ],
        "ppo": [{"prompt": words(20, 60)} for _ in range(64)],
    }
    for stage, made in rows.items():
        (folder / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return folder


def config_of(folder, stage, adapter, precision):
    module, options, data, settings = RUNS[stage]
    arguments = {"base": str(folder / "base"), **options} | ({"adapter": LORA} if adapter else {})
    source = {"class_path": "file", "init_args": {"path": str(folder / f"{stage}.jsonl")}}
    trainer = {"accelerator": "cpu", "precision": precision, "max_epochs": 2, "limit_train_batches": 3}
    return {
        "seed_everything": 1,
        "model": {"class_path": module, "init_args": arguments},
        "data": {"class_path": data, "init_args": {"source": source, **settings}},
        "trainer": {**trainer, "enable_progress_bar": False},
    }


def answer_of(folder, *words):
    environment = {**os.environ, **KERNEL_CACHES, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("stage", [s if s == "sft" else pytest.param(s, marks=pytest.mark.slow) for s in RUNS])
def test_the_estimate_is_within_a_fifth_of_what_a_run_takes(folder, tmp_path, stage, adapter, precision):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(config_of(folder, stage, adapter, precision)))
    plan = json.loads(answer_of(tmp_path, "-m", "lightning_rlhf", "plan", "--config", config, "--json", "--steps=0"))
    printed = answer_of(tmp_path, CHILD, config, tmp_path)
    taken = int(printed.rpartition("peak ")[2])
    ratio = plan["memory"]["peak"] / taken
    print(f"{stage} {'LoRA' if adapter else 'full'} {precision}: {plan['memory']['peak'] >> 20} of {taken >> 20} MiB")
    assert 0.8 < ratio < 1.2
