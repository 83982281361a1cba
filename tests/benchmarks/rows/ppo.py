"""PPO against TRL 0.24, the newest that has it in its main package, and against a plain loop.

One repetition is one iteration: prompts are answered and scored, then learned from in 4 epochs of minibatches. Policy,
reference, value model and reward model are four models; fp32, AdamW without clipping of gradients, KL coefficient 0.05,
temperature 1, clip ranges 0.2, lambda 0.95, no dropout, and one optimizer step per minibatch.

What differs: TRL's gradient checkpointing and bf16, both on by default, the completions that it prints and its penalty
for a missing EOS are off. With `gradient_accumulation_steps` it would step once per epoch only, so that its device
batch is the whole rollout, cut by `num_mini_batches`. TRL and the plain loop keep the log-probabilities of sampling.

- `ppo-equal`: no response can stop, so that all do the same work; the plain loop knows nothing of masks and stops.
- `ppo-real`: Stories260k where LIGHTNING_RLHF_REAL_DATA names the data folder, with beginnings of real stories and a
  full stop as stop token; elsewhere random weights of its shape, whose stop token has a probability of 1/11. The
  responses are not the same, because the contestants' random numbers are not. TRL samples until all rows of the batch
  have stopped, and keeps the padding of prompts and responses in every pass.
- `ppo-lora`: rank 8 on all linear layers, against TRL's full fine-tuning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ppo_material

from rows import Bar, Contestant, Row

COMMON = {
    "num_epochs": 4,
    "kl_coef": 0.05,
    "learning_rate": 1e-6,
    "rank": 0,
    "precision": "32-true",
    "rows": 128,
}
EQUAL = {
    **COMMON,
    "architecture": "gpt2",
    "layers": 4,
    "hidden": 256,
    "heads": 4,
    "vocabulary": 8192,
    "positions": 256,
    "episodes": 32,
    "minibatch_size": 8,
    "prompt_tokens": [64, 64],
    "response_tokens": 64,
    "stop_probability": 0.0,
}
REAL = {
    **COMMON,
    "architecture": "llama",
    "layers": 5,
    "hidden": 64,
    "heads": 8,
    "key_value_heads": 4,
    "intermediate": 172,
    "vocabulary": 512,
    "positions": 512,
    "episodes": 32,
    "minibatch_size": 8,
    "prompt_tokens": [8, 64],
    "response_tokens": 128,
    "stop_probability": 1 / 11,
}
SMOLLM = {
    **COMMON,
    "architecture": "llama",
    "layers": 30,
    "hidden": 576,
    "heads": 9,
    "key_value_heads": 3,
    "intermediate": 1536,
    "vocabulary": 49152,
    "positions": 512,
    "episodes": 8,
    "minibatch_size": 4,
    "prompt_tokens": [64, 64],
    "response_tokens": 32,
    "stop_probability": 0.0,
}

OURS = Contestant("ours", "ours_ppo")
OURS_LORA = Contestant("ours, LoRA", "ours_ppo", settings={"rank": 8})
OURS_BF16 = Contestant("ours, bf16-mixed", "ours_ppo", settings={"precision": "bf16-mixed"})
TRL = Contestant("TRL 0.24", "trl_ppo", "trl-0.24")
BARE = Contestant("bare loop", "bare_ppo")


def prepare(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Models and prompts of random content."""
    return {**ppo_material.write_models(spec, folder), **ppo_material.write_prompts(spec, folder)}


def prepare_equal(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same, and the operations that an iteration needs at least."""
    return {**prepare(spec, folder), "flop": ppo_material.episode_flop(spec)}


def prepare_real(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The real model and real prompts where they are there."""
    models = ppo_material.real_models(folder) if spec["layers"] == REAL["layers"] else None
    return prepare(spec, folder) if models is None else {**models, **ppo_material.real_prompts(spec, folder)}


ROWS = [
    Row(
        name="ppo-equal",
        title="PPO, GPT-2 4 x 256, vocabulary 8192, 64 + 64 tokens, 32 episodes, 4 epochs, fp32",
        spec=EQUAL,
        contestants=(OURS, TRL, BARE),
        work="episodes",
        bars=(Bar("speed", TRL.label, at_least=1.2), Bar("speed", BARE.label, at_least=0.95)),
        prepare=prepare_equal,
        equal=("episodes", "prompt_tokens", "response_tokens"),
    ),
    Row(
        name="ppo-real",
        title="PPO, Stories260k, prompts of 8-64 tokens, responses to a sentence's end, 32 episodes, 4 epochs",
        spec=REAL,
        contestants=(OURS, TRL),
        work="episodes",
        bars=(Bar("speed", TRL.label, at_least=5),),
        prepare=prepare_real,
        equal=("episodes",),
    ),
    Row(
        name="ppo-lora",
        title="PPO, SmolLM2-135M's shape, 64 + 32 tokens, 8 episodes, 4 epochs, LoRA against full fine-tuning",
        spec=SMOLLM,
        contestants=(OURS_LORA, TRL),
        work="episodes",
        bars=(Bar("speed", TRL.label, at_least=1.5), Bar("memory", TRL.label, at_most=0.5)),
        prepare=prepare,
        equal=("episodes", "prompt_tokens", "response_tokens"),
        repeats=2,
    ),
    Row(
        name="ppo-bf16",
        title="PPO as in ppo-equal, bf16-mixed against our own fp32",
        spec=EQUAL,
        contestants=(OURS_BF16, OURS),
        work="episodes",
        bars=(Bar("speed", OURS.label, at_least=1.25),),
        prepare=prepare_equal,
        equal=("episodes", "prompt_tokens", "response_tokens"),
    ),
]
