"""Two iterations of PPO with reward functions, on real prompts and the real model."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.real

TASKS = "sft/self_instruct_seed_tasks.jsonl"
OPTIONS = {
    "model": "PPOModule",
    "model.rewards": "[{class_path: length, init_args: {target: 12, scale: 10}}, {class_path: repetition}]",
    "model.learning_rate": 1e-3,
    "model.rollout_size": 16,
    "model.minibatch_size": 8,
    "model.num_epochs": 2,
    "model.max_response_length": 24,
    "data": "PromptData",
    "data.source": "file",
    "data.source.columns": "{prompt: instruction}",
    "data.source.val_fraction": 0.1,
    "data.max_prompt_length": 48,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
}


@pytest.mark.filterwarnings("ignore:all 16 responses of iteration")  # none of those few need differ in its score
def test_two_iterations_with_reward_functions_move_the_real_model_and_keep_it_whole(fit, base, data):
    run = fit(**OPTIONS, **{"data.source.path": data / TASKS})
    kl, scores = run.logged("objective/kl"), run.logged("objective/scores")
    assert len(kl) == len(scores) == 2
    assert abs(kl[0]) < 1e-4 < abs(kl[1])  # the policy starts as its reference and leaves it
    assert all(math.isfinite(value) for row in run.metrics for value in row.values())
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (base, run.root / "model"))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert all(bool(torch.isfinite(weight).all()) for weight in after.values())
