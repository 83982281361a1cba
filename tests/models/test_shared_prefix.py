import pytest
import torch
from transformers import MambaConfig, MambaModel

from lightning_rlhf.batches import Prefixes, SharedPrefixBatch
from lightning_rlhf.models import LanguageModel, LoRA, ScalarModel, add_adapter, enable_gradient_checkpointing
from lightning_rlhf.models.row_chunks import row_chunks
from lightning_rlhf.models.shared_prefix import goes_on_behind_a_cache

GROUPS = {
    (5, 9, 0, 7, 33, 2, 8, 8, 1, 14): [[0], [12, 40, 41, 8, 0], [3, 17]],
    (21, 22, 23, 24): [[60, 61, 62, 63, 4, 5], [7, 0]],
    (30, 31, 32, 33, 34, 35, 36, 37): [[9, 9, 9], [9, 9, 8], [11, 0, 12, 13], [50]],
}
"""Prompts with their responses: of unequal lengths and numbers, with the id that pads inside, ends alike and not."""


@pytest.fixture
def tokens(make_tokens):
    return make_tokens([[*prompt, *response] for prompt, responses in GROUPS.items() for response in responses])


@pytest.fixture
def prefixes():
    owners = [index for index, responses in enumerate(GROUPS.values()) for _ in responses]
    lengths = [len(prompt) for prompt, responses in GROUPS.items() for _ in responses]
    return Prefixes(torch.tensor(lengths), torch.tensor(owners))


@pytest.fixture
def passed_tokens(monkeypatch):
    """How many tokens went through the transformer."""
    counts = []

    def count(model):
        model.get_input_embeddings().register_forward_hook(lambda module, args, output: counts.append(args[0].numel()))
        return counts

    return count


def is_shared(backbone, tokens, prefixes):
    """Whether the rows pass behind their prefixes."""
    return isinstance(row_chunks(backbone, tokens._replace(prefixes=prefixes))[0].tokens, SharedPrefixBatch)


def scores_and_gradients(model, tokens, prefixes):
    scores = model.scores(tokens._replace(prefixes=prefixes), tokens.attention_mask.sum(-1) - 1)
    return results_and_gradients(model, scores)


def results_and_gradients(model, results):
    model.zero_grad()
    weights = torch.linspace(-1.0, 2.0, results.numel()).view(results.shape)
    (results.square() * weights).mean().backward()
    return results.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "gemma2", "qwen2"])
class TestExactness:
    def test_scores_and_gradients_are_those_of_separate_rows(self, architecture, load_tiny, tokens, prefixes):
        model = ScalarModel.from_language_model(load_tiny(architecture))
        expected, gradients = scores_and_gradients(model, tokens, None)
        found, found_gradients = scores_and_gradients(model, tokens, prefixes)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert_equal_gradients(found_gradients, gradients)

    @pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
    @pytest.mark.parametrize("kind", [LanguageModel, ScalarModel.from_language_model], ids=["language", "scalar"])
    def test_every_position_behind_the_prefixes_is_read_as_in_separate_rows(
        self, architecture, kind, left, load_tiny, make_tokens, prefixes, passed_tokens
    ):
        loaded = load_tiny(architecture)
        model = LanguageModel(loaded.model) if kind is LanguageModel else kind(loaded)
        tokens = make_tokens([[*p, *response] for p, responses in GROUPS.items() for response in responses], left=left)
        place = tokens.attention_mask.cumsum(-1) - 1  # in its own row
        keep = tokens.attention_mask & (place >= prefixes.lengths[:, None]) & (place % 2 == 0)
        counts = passed_tokens(loaded.model)

        def read(given):
            output = model(tokens._replace(prefixes=given), keep)
            return results_and_gradients(model, getattr(output, "logits", output))

        expected, gradients = read(None)
        counts.clear()
        found, found_gradients = read(prefixes)
        assert counts == [3 * 10, 9 * 6]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert_equal_gradients(found_gradients, gradients)

    def test_the_shared_tokens_pass_once(self, architecture, load_tiny, tokens, prefixes, passed_tokens):
        model = ScalarModel.from_language_model(load_tiny(architecture))
        counts = passed_tokens(model.backbone)
        scores_and_gradients(model, tokens, prefixes)
        assert counts == [3 * 10, 9 * 6]

    def test_what_stands_in_one_response_changes_no_other(self, architecture, load_tiny, tokens, prefixes):
        model = ScalarModel.from_language_model(load_tiny(architecture))
        before, _ = scores_and_gradients(model, tokens, prefixes)
        changed = tokens._replace(input_ids=tokens.input_ids.clone())
        changed.input_ids[1, 11] += 1
        after, _ = scores_and_gradients(model, changed, prefixes)
        assert (before != after).nonzero().flatten().tolist() == [1]


def test_an_adapter_gets_the_gradients_of_separate_rows(load_tiny, tokens, prefixes):
    model = ScalarModel.from_language_model(load_tiny("llama"))
    model.backbone = add_adapter(model.backbone, LoRA(rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.2)
    expected, gradients = scores_and_gradients(model, tokens, None)
    found, found_gradients = scores_and_gradients(model, tokens, prefixes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert any("lora_A" in name and gradient.any() for name, gradient in gradients.items())
    assert_equal_gradients(found_gradients, gradients)


class TestRowsAsTheyAre:
    def test_rows_stay_apart_where_they_share_little(self, load_tiny, tokens, prefixes):
        backbone = load_tiny("gpt2").model.base_model
        alone = Prefixes(prefixes.lengths, torch.arange(len(prefixes.lengths)))
        assert not is_shared(backbone, tokens, alone)
        assert is_shared(backbone, tokens, prefixes)

    def test_rows_stay_apart_where_one_of_them_shares_nothing(self, load_tiny, tokens, prefixes):
        lengths = prefixes.lengths.clone()
        lengths[3:5] = 0
        backbone = load_tiny("gpt2").model.base_model
        assert not is_shared(backbone, tokens, prefixes._replace(lengths=lengths))

    def test_rows_stay_apart_where_activations_are_recomputed(self, load_tiny, tokens, prefixes):
        backbone = load_tiny("llama").model.base_model
        enable_gradient_checkpointing(backbone)
        assert not is_shared(backbone, tokens, prefixes)

    def test_rows_stay_apart_in_an_architecture_that_carries_a_state(self, tokens, prefixes):
        mamba = MambaModel(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))
        assert not is_shared(mamba, tokens, prefixes)


class TestOtherWaysToAttend:
    def test_a_prefix_that_sees_what_follows_it_is_not_shared(self, load_tiny):
        model = load_tiny("llama").model
        assert goes_on_behind_a_cache(model)
        model.model.layers[1].self_attn.is_causal = False
        assert not goes_on_behind_a_cache(model)

    def test_the_configs_word_counts_too(self, load_tiny):
        model = load_tiny("llama").model
        model.config.is_causal = False
        assert not goes_on_behind_a_cache(model)

    def test_a_cache_that_holds_more_than_keys_and_values_is_not_shared(self, load_tiny):
        assert not goes_on_behind_a_cache(load_tiny("lfm2").model)
