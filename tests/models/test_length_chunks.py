import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.models import LanguageModel, ScalarModel
from lightning_rlhf.models import row_chunks as chunking
from lightning_rlhf.models.length_chunks import length_chunks
from lightning_rlhf.models.row_chunks import in_row_order, row_chunks

ROWS = [[5, 9, 0, 7, 33, 2, 0], [12, 40], [3, 17, 60, 61, 62, 63, 4, 5, 6], [8, 0, 1], [50, 51, 52, 53, 54, 55, 56]]


@pytest.fixture
def cheap_calls(monkeypatch):
    """A call costs nothing, so that each length gets its own."""
    monkeypatch.setattr(chunking, "TOKENS_PER_CALL", 0)


@pytest.fixture
def costly_calls(monkeypatch):
    monkeypatch.setattr(chunking, "TOKENS_PER_CALL", 10**6)


def cost(lengths, chunks, tokens_per_call):
    return sum(len(rows) * max(lengths[row] for row in rows) + tokens_per_call for rows in chunks)


def compositions(order):
    """Every way to cut a list into neighbouring pieces."""
    if not order:
        yield []
    for size in range(1, len(order) + 1):
        for rest in compositions(order[size:]):
            yield [order[:size], *rest]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(0, 40))
def test_no_other_cut_costs_less(lengths, tokens_per_call):
    chunks = length_chunks(lengths, tokens_per_call=tokens_per_call)
    assert sorted(row for rows in chunks for row in rows) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    least = min(cost(lengths, cut, tokens_per_call) for cut in compositions(order))
    assert cost(lengths, chunks, tokens_per_call) == least


def outputs(model, tokens, keep):
    model.zero_grad()
    result = model(tokens, keep)
    tensors = [result] if isinstance(result, torch.Tensor) else [result.logits, result.hidden]
    sum((part * torch.linspace(-1, 2, part.numel()).view(part.shape)).sum() for part in tensors).backward()
    return [part.detach() for part in tensors], {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "gemma2"])
@pytest.mark.parametrize("kind", ["language model", "scalar model"])
class TestExactness:
    def test_several_calls_give_what_one_gives(
        self, kind, architecture, left, load_tiny, make_tokens, monkeypatch, costly_calls
    ):
        loaded = load_tiny(architecture)
        model = LanguageModel(loaded.model) if kind == "language model" else ScalarModel.from_language_model(loaded)
        tokens = make_tokens(ROWS, left=left, length=11)
        keep = tokens.attention_mask & (tokens.input_ids % 2 == 0)
        expected, gradients = outputs(model, tokens, keep)
        monkeypatch.setattr(chunking, "TOKENS_PER_CALL", 0)
        assert len(row_chunks(model, tokens)) == 4  # two rows are equally long
        found, found_gradients = outputs(model, tokens, keep)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert found_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_prompts_on_the_left_and_responses_on_the_right_are_moved_together(make_tokens, load_tiny, cheap_calls):
    tokens = make_tokens([[0, 0, 7, 8, 9, 0], [1, 2, 3, 4, 5, 6]])
    tokens.attention_mask[0, [0, 1, 5]] = False
    short = row_chunks(load_tiny("gpt2").model, tokens)[1]
    assert short.tokens.input_ids.tolist() == [[7, 8, 9]]
    assert short.tokens.attention_mask.all()


def test_numbers_come_back_in_the_order_of_the_rows(make_tokens, load_tiny, cheap_calls):
    tokens = make_tokens(ROWS)
    keep = tokens.attention_mask
    chunks = row_chunks(load_tiny("gpt2").model, tokens)
    parts = [chunk.tokens.input_ids[chunk.of(keep)] for chunk in chunks]
    assert in_row_order(parts, chunks, keep).tolist() == [token for row in ROWS for token in row]


class TestOneCall:
    def test_rows_of_equal_length_are_the_batch_as_it_is(self, make_tokens, load_tiny, cheap_calls):
        tokens = make_tokens([[1, 2, 3], [4, 5, 6]])
        chunks = row_chunks(load_tiny("gpt2").model, tokens)
        assert [chunk.tokens for chunk in chunks] == [tokens]

    def test_packed_rows_are_the_batch_as_it_is(self, make_tokens, load_tiny, cheap_calls):
        tokens = make_tokens(ROWS)
        packed = tokens._replace(segment_ids=torch.zeros_like(tokens.input_ids))
        assert [chunk.tokens for chunk in row_chunks(load_tiny("gpt2").model, packed)] == [packed]

    def test_columns_that_no_row_needs_are_left_out(self, make_tokens, load_tiny, costly_calls):
        (chunk,) = row_chunks(load_tiny("gpt2").model, make_tokens(ROWS, length=20))
        assert chunk.tokens.input_ids.shape == (5, 9)

    def test_a_row_without_a_token_is_no_mistake(self, load_tiny, make_tokens, cheap_calls):
        tokens = make_tokens([[1, 2, 3], []], length=3)
        logits = LanguageModel(load_tiny("gpt2").model)(tokens, tokens.attention_mask).logits
        assert logits.isfinite().all()
