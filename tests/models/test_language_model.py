import pytest
import torch
from torch import nn

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LanguageModel

ARCHITECTURES = ["gpt2", "llama", "neox", "opt", "gemma2", "qwen2"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestEveryArchitecture:
    def test_kept_logits_are_the_full_logits_at_those_positions(self, architecture, tiny, make_tokens, rows):
        model = tiny(architecture)
        tokens = make_tokens(rows)
        keep = tokens.attention_mask & (torch.arange(9) % 2 == 0)
        full = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long(), position_ids=tokens.position_ids
        ).logits
        output = LanguageModel(model)(tokens, keep)
        assert output.logits.shape == (int(keep.sum()), 64)
        torch.testing.assert_close(output.logits, full[keep], atol=1e-6, rtol=0)

    def test_gradients_are_those_of_the_full_logits(self, architecture, tiny, make_tokens, rows):
        model = tiny(architecture)
        tokens = make_tokens(rows)
        keep = tokens.attention_mask & (torch.arange(9) > 2)
        weights = torch.randn(int(keep.sum()), 64, generator=torch.Generator().manual_seed(0))

        def gradients(logits):
            return torch.autograd.grad((logits * weights).sum(), list(model.parameters()))

        whole = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long(), position_ids=tokens.position_ids
        ).logits
        for one, other in zip(
            gradients(LanguageModel(model)(tokens, keep).logits), gradients(whole[keep]), strict=True
        ):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)

    def test_hidden_states_are_what_the_output_layer_reads(self, architecture, tiny, make_tokens, rows):
        model = tiny(architecture)
        language_model = LanguageModel(model)
        tokens = make_tokens(rows)
        output = language_model(tokens, tokens.attention_mask)
        everywhere = language_model(tokens, None)
        assert everywhere.logits.shape == (0, 64)
        assert everywhere.hidden.shape == (3, 9, language_model.hidden_size)
        torch.testing.assert_close(everywhere.hidden[tokens.attention_mask], output.hidden, atol=1e-6, rtol=0)
        projected = model.get_output_embeddings()(output.hidden)
        cap = getattr(model.config, "final_logit_softcapping", None)
        projected = projected if cap is None else torch.tanh(projected / cap) * cap
        torch.testing.assert_close(projected, output.logits, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("left", [True, False])
    def test_a_row_says_the_same_alone_and_in_a_padded_batch(self, architecture, left, tiny, make_tokens, rows):
        language_model = LanguageModel(tiny(architecture))
        tokens = make_tokens(rows, left=left, length=14, pad_id=0)
        batched = language_model(tokens, tokens.attention_mask).logits.log_softmax(-1)
        alone = []
        for row in rows:
            one = make_tokens([row])
            alone.append(language_model(one, one.attention_mask).logits.log_softmax(-1))
        torch.testing.assert_close(batched, torch.cat(alone), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_packed_rows_say_what_they_say_unpacked(self, architecture, attention, tiny, make_tokens, rows):
        language_model = LanguageModel(tiny(architecture, attention))
        unpacked = make_tokens([*rows, [44]])
        expected = language_model(unpacked, unpacked.attention_mask).logits
        packed = _pack([[rows[0], rows[1]], [rows[2], [44]]], length=15)
        torch.testing.assert_close(language_model(packed, packed.attention_mask).logits, expected, atol=1e-5, rtol=0)


def test_the_model_is_untouched_at_rest(tiny, make_tokens, rows):
    model = tiny("gpt2")
    tokens = make_tokens(rows)
    before = model(input_ids=tokens.input_ids).logits
    LanguageModel(model)(tokens, tokens.attention_mask)
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert torch.equal(model(input_ids=tokens.input_ids).logits, before)


def test_packing_is_refused_where_documents_would_mix(tiny):
    from transformers import BloomConfig, BloomForCausalLM

    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2))
    packed = _pack([[[1, 2], [3, 4]]], length=4)
    with pytest.raises(ModelError, match="kept apart"):
        LanguageModel(bloom)(packed, packed.attention_mask)


def test_a_model_without_output_layer_is_refused(tiny):
    with pytest.raises(ModelError, match="output layer"):
        LanguageModel(tiny("gpt2").base_model)


def test_a_model_that_never_calls_its_output_layer_is_refused(tiny, make_tokens, rows):
    model = tiny("llama")
    head = model.lm_head

    class Inlined(nn.Linear):
        def __call__(self, hidden):
            return nn.functional.linear(hidden, self.weight)

    model.lm_head = Inlined(head.in_features, head.out_features, bias=False)
    tokens = make_tokens(rows)
    with pytest.raises(ModelError, match="output layer as a module"):
        LanguageModel(model)(tokens, tokens.attention_mask)


def _pack(documents: list[list[list[int]]], length: int) -> TokenBatch:
    shape = (len(documents), length)
    ids, positions, segments = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, members in enumerate(documents):
        start = 0
        for number, document in enumerate(members):
            place = slice(start, start + len(document))
            ids[row, place] = torch.tensor(document)
            positions[row, place] = torch.arange(len(document))
            segments[row, place] = number
            mask[row, place] = True
            start += len(document)
    return TokenBatch(ids, mask, positions, segments)
