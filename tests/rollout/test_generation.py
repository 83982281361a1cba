import pytest
import torch
from transformers import GenerationConfig

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout.generation import generate_responses
from lightning_rlhf.rollout.sampling import sample_responses


def generate(model, prompts, **changes):
    arguments = {"seed": 3, "stop_ids": [1], "max_response_length": 8, "temperature": 0.8, **changes}
    return generate_responses(model, prompts.prompt_ids, prompts.prompt_mask, **arguments)


def test_a_seed_gives_the_same_samples_and_leaves_the_global_generator_alone(model, prompts):
    state = torch.get_rng_state()
    first, second, other = generate(model, prompts), generate(model, prompts), generate(model, prompts, seed=4)
    assert torch.equal(first.response_ids, second.response_ids)
    assert not torch.equal(first.response_ids, other.response_ids)
    assert torch.equal(torch.get_rng_state(), state)


def test_greedy_generation_agrees_with_the_built_in_sampler(model, prompts):
    mine = sample_responses(
        model, prompts.prompt_ids, prompts.prompt_mask, None, stop_ids=[1], max_response_length=8, greedy=True
    )
    assert all(torch.equal(a, b) for a, b in zip(generate(model, prompts, greedy=True), mine, strict=True))


def test_frequencies_are_those_of_the_softmax_whatever_the_model_asks_for(tiny):
    model, number = tiny.llama(vocabulary=6), 4000
    model.generation_config = GenerationConfig(top_k=2, repetition_penalty=3.0, do_sample=True, eos_token_id=1)
    settings = model.generation_config
    ids = torch.tensor([[2, 3, 4]]).expand(number, -1)
    sampled = generate_responses(
        model,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        seed=0,
        stop_ids=[1],
        max_response_length=1,
        temperature=0.7,
    )
    with torch.no_grad():
        expected = (model(input_ids=ids[:1]).logits[0, -1] / 0.7).softmax(-1)
    frequencies = sampled.response_ids[:, 0].bincount(minlength=6) / number
    deviation = (expected * (1 - expected) / number).sqrt()
    assert ((frequencies - expected).abs() < 4 * deviation + 1e-3).all()
    assert model.generation_config is settings


def test_rows_that_do_not_fit_the_positions_are_an_error(model, prompts):
    with pytest.raises(ConfigError, match="positions"):
        generate(model, prompts, max_response_length=60)
