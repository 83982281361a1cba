import numpy as np
import pytest
import torch
from torch import nn
from transformers import Lfm2Config, Lfm2ForCausalLM, MambaConfig, MambaForCausalLM

from lightning_rlhf.errors import ConfigError, DivergenceError, ModelError
from lightning_rlhf.functional import position_ids
from lightning_rlhf.rollout import sampling
from lightning_rlhf.rollout.cache import make_room
from lightning_rlhf.rollout.randomness import uniforms
from lightning_rlhf.rollout.sampling import invert_cdf, sample_responses

LENGTH = 10
VOCABULARY = 12


def sample(model, prompts, rows, *, padding=0, temperature=1.0, length=LENGTH, stop_ids=(1,)):
    """The responses to some of the prompts, with extra padding on their left."""
    ids, mask = prompts.prompt_ids[rows], prompts.prompt_mask[rows]
    ids = torch.cat([torch.full((len(ids), padding), 3), ids], dim=1)
    mask = torch.cat([torch.zeros(len(ids), padding, dtype=torch.bool), mask], dim=1)
    numbers = uniforms(5, "rollout", 0, rows, length)
    return sample_responses(
        model, ids, mask, numbers, stop_ids=stop_ids, max_response_length=length, temperature=temperature
    )


class Recorder(nn.Module):
    """Keeps the logits of every step."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.config = model.config
        self.steps = []

    def get_base_model(self):
        return self.model

    def forward(self, **inputs):
        output = self.model(**inputs)
        self.steps.append(output.logits[:, -1])
        return output


def test_samples_do_not_depend_on_the_batch_cut(model, prompts):
    rows = list(range(6))
    together = sample(model, prompts, rows)
    for cut in ([[0], [1], [2], [3], [4], [5]], [[5, 2, 0], [1, 4, 3]]):
        for part in cut:
            alone = sample(model, prompts, part)
            assert all(torch.equal(whole[part], own) for whole, own in zip(together, alone, strict=True))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [4, 0, 0, 0, 2, 2, 0]], ids=["distinct", "repeated"])
def test_a_cache_with_convolutions_loses_rows_too(prompts, rows):
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=12,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention", "conv"],
        num_hidden_layers=3,
        block_auto_adjust_ff_dim=False,
        initializer_range=0.4,
    )
    model = Lfm2ForCausalLM(config).eval()
    together = sample(model, prompts, rows, stop_ids=(1, 2, 3))
    assert len(set(together.completion_mask.sum(-1).tolist())) > 1
    for place, row in enumerate(rows):
        alone = sample(model, prompts, [row], stop_ids=(1, 2, 3))
        assert all(torch.equal(whole[[place]], own) for whole, own in zip(together, alone, strict=True))


def test_samples_do_not_depend_on_padding(model, prompts):
    plain, padded = (sample(model, prompts, list(range(6)), padding=padding) for padding in (0, 7))
    assert all(torch.equal(first, second) for first, second in zip(plain, padded, strict=True))


def test_a_prompt_of_several_neighbouring_rows_passes_once_and_changes_no_sample(model, prompts):
    rows = [4, 0, 0, 0, 2, 2, 0]
    ids, mask = prompts.prompt_ids[rows], prompts.prompt_mask[rows]
    numbers = uniforms(5, "rollout", 0, range(7), LENGTH)
    recorder = Recorder(model)
    options = {"stop_ids": (1,), "max_response_length": LENGTH}
    together = sample_responses(recorder, ids, mask, numbers, **options)
    assert len(recorder.steps[0]) == 4
    assert len(recorder.steps[1]) > 4
    for row in range(7):
        alone = sample_responses(model, ids[[row]], mask[[row]], numbers[[row]], **options)
        assert all(torch.equal(whole[[row]], own) for whole, own in zip(together, alone, strict=True))


def test_samples_do_not_depend_on_when_finished_rows_leave(model, prompts, monkeypatch):
    results = []
    for share in (0.0, 0.5, 1.0):
        monkeypatch.setattr(sampling, "_COMPACT_SHARE", share)
        results.append(sample(model, prompts, list(range(6)), length=20))
    assert results[0].stopped.any()
    for other in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(results[0], other, strict=True))


def test_the_cache_gets_a_place_for_every_token_of_prompt_and_response_and_no_more(tiny, prompts, monkeypatch):
    rooms = []

    def watched(cache, longest):
        rooms.append((cache, longest))
        make_room(cache, longest)

    monkeypatch.setattr(sampling, "make_room", watched)
    sampled = sample(tiny.llama(), prompts, list(range(6)), padding=2, length=20, stop_ids=(VOCABULARY + 1,))
    assert not sampled.stopped.any()
    ((cache, longest),) = rooms
    width = 2 + prompts.prompt_ids.shape[1]
    assert longest == width + 20
    for layer in cache.layers:
        assert layer.keys.shape[-2] == width + 20 - 1  # nothing is asked after the last token
        assert layer.keys.untyped_storage().nbytes() // layer.keys[:, :, :1].nbytes <= width + 20


def test_every_step_sees_the_logits_of_a_full_forward_pass(model, prompts, monkeypatch):
    sampled = check_every_step(model, prompts, monkeypatch)
    assert sampled.completion_mask.sum(-1).unique().numel() > 2


def test_so_does_every_step_of_a_model_that_keeps_states_instead_of_keys_and_values(prompts, monkeypatch):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=12, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.4)
    check_every_step(MambaForCausalLM(config).eval(), prompts, monkeypatch)


def check_every_step(model, prompts, monkeypatch):
    monkeypatch.setattr(sampling, "_COMPACT_SHARE", 0.0)  # every row stays, so that steps and rows can be compared
    recorder = Recorder(model)
    sampled = sample(recorder, prompts, list(range(6)), padding=2, length=20, stop_ids=(1, 4, 9))
    for row in range(6):
        prompt = prompts.prompt_ids[row][prompts.prompt_mask[row]]
        response = sampled.response_ids[row][sampled.completion_mask[row]]
        with torch.no_grad():
            full = model(input_ids=torch.cat([prompt, response])[None]).logits[0]
        for step in range(len(response)):
            torch.testing.assert_close(recorder.steps[step][row], full[len(prompt) - 1 + step], atol=1e-5, rtol=0)
    return sampled


def test_steps_of_a_compacted_batch_see_the_logits_of_a_full_forward_pass(model, prompts, monkeypatch):
    monkeypatch.setattr(sampling, "_COMPACT_SHARE", 1.0)
    recorder = Recorder(model)
    sampled = sample(recorder, prompts, list(range(6)), length=20, stop_ids=(1, 4, 9))
    lengths = sampled.completion_mask.sum(-1)
    assert len(recorder.steps) == lengths.max()
    for step, logits in enumerate(recorder.steps):
        running = (lengths > step).nonzero().flatten().tolist()
        assert len(logits) == len(running)
        for place, row in enumerate(running):
            prompt = prompts.prompt_ids[row][prompts.prompt_mask[row]]
            ids = torch.cat([prompt, sampled.response_ids[row, :step]])
            with torch.no_grad():
                full = model(input_ids=ids[None]).logits[0, -1]
            torch.testing.assert_close(logits[place], full, atol=1e-5, rtol=0)


def test_frequencies_are_those_of_the_softmax(tiny):
    model, number, temperature = tiny.llama(vocabulary=6), 4000, 0.7
    ids = torch.tensor([[2, 3, 4]]).expand(number, -1)
    numbers = uniforms(1, "rollout", 0, range(number), 2)
    sampled = sample_responses(
        model,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        numbers,
        stop_ids=[1],
        max_response_length=2,
        temperature=temperature,
    )
    first = sampled.response_ids[:, 0]
    with torch.no_grad():
        expected = (model(input_ids=ids[:1]).logits[0, -1] / temperature).softmax(-1)
    assert_close_to(first.bincount(minlength=6) / number, expected, number)
    token = int(expected.scatter(0, torch.tensor([1]), 0.0).argmax())
    after = sampled.response_ids[first == token, 1]
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([[2, 3, 4, token]])).logits[0, -1] / temperature).softmax(-1)
    assert_close_to(after.bincount(minlength=6) / len(after), expected, len(after))


def assert_close_to(frequencies, probabilities, number):
    deviation = (probabilities * (1 - probabilities) / number).sqrt()
    assert ((frequencies - probabilities).abs() < 4 * deviation + 1e-3).all()


def test_greedy_takes_the_most_probable_token_at_every_step(model, prompts):
    sampled = sample_responses(
        model, prompts.prompt_ids, prompts.prompt_mask, None, stop_ids=[1], max_response_length=6, greedy=True
    )
    for row in range(6):
        ids = prompts.prompt_ids[row][prompts.prompt_mask[row]]
        for token in sampled.response_ids[row][sampled.completion_mask[row]]:
            with torch.no_grad():
                assert model(input_ids=ids[None]).logits[0, -1].argmax() == token
            ids = torch.cat([ids, token[None]])


def test_a_response_ends_with_its_first_stop_token(model, prompts):
    sampled = sample(model, prompts, list(range(6)), length=30, stop_ids=(1, 4))
    assert sampled.stopped.any()
    for ids, mask, stopped in zip(*sampled, strict=True):
        response = ids[mask].tolist()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
        assert (response[-1] in (1, 4)) == stopped
        assert not set(response[:-1]) & {1, 4}
        assert not ids[~mask].any()


def test_a_response_that_is_cut_is_marked_as_not_stopped(model, prompts):
    sampled = sample(model, prompts, list(range(6)), length=1, stop_ids=(1,))
    assert sampled.completion_mask.all()
    assert torch.equal(sampled.stopped, sampled.response_ids[:, 0] == 1)
    assert not sampled.stopped.all()


def test_id_zero_as_stop_token_ends_responses_like_any_other(model, prompts):
    sampled = sample(model, prompts, list(range(6)), length=30, stop_ids=(0,))
    for ids, mask, stopped in zip(*sampled, strict=True):
        assert 0 not in ids[mask][:-1].tolist()
        assert bool(stopped) == (ids[mask][-1] == 0)


def test_inversion_follows_the_cumulative_distribution():
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(5, 3)
    places = torch.tensor([0.0, 0.49, 0.51, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert invert_cdf(logits, places).tolist() == [0, 0, 1, 2, 2]


def test_inversion_never_takes_a_token_of_probability_zero():
    logits = torch.full((3, 8), float("-inf"))
    logits[:, [2, 5]] = torch.randn(3, 2)
    places = torch.tensor([0.0, 0.5, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert set(invert_cdf(logits, places).tolist()) <= {2, 5}


def test_inversion_divides_by_the_temperature():
    logits = torch.tensor([[2.0, 0.0]])
    share = torch.sigmoid(torch.tensor(2.0 / 0.5)).item()
    places = torch.tensor([share - 1e-6, share + 1e-6])
    assert invert_cdf(logits.expand(2, -1), places.double(), temperature=0.5).tolist() == [0, 1]


def test_logits_that_are_not_finite_are_an_error(tiny, prompts):
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(DivergenceError, match="finite"):
        sample(model, prompts, [0, 1])


def test_rows_that_do_not_fit_the_positions_are_an_error(tiny, prompts):
    with pytest.raises(ConfigError, match="64 positions, got 69"):
        sample(tiny.llama(), prompts, [3], length=60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"max_response_length": 0}, "max_response_length"),
        ({"max_response_length": 3}, "uniforms"),
    ],
)
def test_arguments_that_break_a_rule_are_errors(tiny, prompts, change, message):
    arguments = {"stop_ids": [1], "max_response_length": 2, "temperature": 1.0, **change}
    with pytest.raises(ConfigError, match=message):
        sample_responses(tiny.llama(), prompts.prompt_ids, prompts.prompt_mask, np.zeros((6, 2)), **arguments)


def test_an_empty_prompt_is_an_error(tiny, prompts):
    with pytest.raises(ConfigError, match="at least one token"):
        sample_responses(
            tiny.llama(),
            prompts.prompt_ids,
            torch.zeros_like(prompts.prompt_mask),
            None,
            stop_ids=[1],
            max_response_length=2,
            greedy=True,
        )


def test_a_model_without_a_cache_is_an_error_that_names_the_other_sampler(tiny, prompts):
    class Stateless(nn.Module):
        def forward(self, input_ids, attention_mask, past_key_values, use_cache):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 4), "past_key_values": None})()

    with pytest.raises(ModelError, match="sampler: transformers"):
        sample(Stateless(), prompts, [0])


def test_position_ids_of_the_prompt_are_those_of_the_functional_core(tiny, prompts, monkeypatch):
    recorder, seen = Recorder(tiny.llama()), []
    monkeypatch.setattr(recorder.model, "forward", keep_positions(recorder.model.forward, seen), raising=True)
    sample(recorder, prompts, [0, 3], padding=3, length=3)
    mask = torch.cat([torch.zeros(2, 3, dtype=torch.bool), prompts.prompt_mask[[0, 3]]], dim=1)
    assert torch.equal(seen[0], position_ids(mask))
    assert torch.equal(seen[1][:, 0], mask.sum(-1))


def keep_positions(forward, seen):
    def recorded(
        input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, logits_to_keep=0
    ):
        seen.append(position_ids)
        return forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )

    return recorded
