import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.cli.estimate.allocations import recorded
from lightning_rlhf.functional import logprobs as module
from lightning_rlhf.functional import token_cross_entropy, token_entropy, token_logprobs

LARGE_VOCABULARY = module._LARGE_VOCABULARY
LOGITS = torch.tensor([[[0.5, -1.0, 2.0], [0.1, 0.2, 0.3]]], dtype=torch.float64)
IDS = torch.tensor([[2, 0]])


@pytest.fixture(autouse=True, scope="module", params=["whole", "in pieces"])
def _way(request):
    """Every test here holds for both ways of going through the softmax."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LARGE_VOCABULARY", 1 if request.param == "in pieces" else 2**60)
        yield


@pytest.fixture
def pieces(monkeypatch):
    """Logits in pieces inside of `with pieces():`, as a whole outside."""
    monkeypatch.setattr(module, "_LARGE_VOCABULARY", 2**60)

    @contextmanager
    def inside():
        with monkeypatch.context() as patch:
            patch.setattr(module, "_LARGE_VOCABULARY", 1)
            yield

    return inside


def slow_softmax(row, temperature):
    weights = [math.exp((z - max(row)) / temperature) for z in row]
    return [weight / math.fsum(weights) for weight in weights]


def test_token_logprobs_by_hand():
    logits = torch.tensor([[1.0, 3.0, 4.0]], dtype=torch.float64).log()
    assert token_logprobs(logits, torch.tensor([1])).item() == pytest.approx(math.log(3 / 8))


def test_token_logprobs_by_hand_at_a_temperature():
    logits = torch.tensor([[1.0, 2.0]], dtype=torch.float64).log()
    # at temperature 1/2 the weights 1, 2 become 1, 4
    assert token_logprobs(logits, torch.tensor([1]), temperature=0.5).item() == pytest.approx(math.log(4 / 5))


def test_token_entropy_by_hand():
    assert token_entropy(torch.zeros(1, 8, dtype=torch.float64)).item() == pytest.approx(math.log(8))
    logits = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log()
    assert token_entropy(logits).item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


def test_nothing_is_shifted():
    logits = torch.full((3, 4), -50.0)
    ids = torch.tensor([3, 0, 2])
    logits[range(3), ids] = 50.0
    assert token_logprobs(logits, ids).abs().max() < 1e-6


@given(
    st.sampled_from([(), (4,), (2, 3)]), st.integers(1, 9), st.sampled_from([0.1, 0.7, 1.0, 3.0]), st.integers(0, 999)
)
def test_logprobs_and_entropy_agree_with_a_slow_loop(batch, num_tokens, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(*batch, num_tokens, generator=generator, dtype=torch.float64)
    ids = torch.randint(num_tokens, batch, generator=generator)
    logprobs = token_logprobs(logits, ids, temperature=temperature)
    entropy = token_entropy(logits, temperature=temperature)
    assert logprobs.shape == entropy.shape == batch
    flat = zip(logits.reshape(-1, num_tokens).tolist(), ids.flatten().tolist(), strict=True)
    for index, (row, token) in enumerate(flat):
        probabilities = slow_softmax(row, temperature)
        assert logprobs.flatten()[index].item() == pytest.approx(math.log(probabilities[token]))
        surprise = math.fsum(-p * math.log(p) for p in probabilities if p > 0)
        assert entropy.flatten()[index].item() == pytest.approx(surprise, abs=1e-12)


def test_probabilities_sum_to_one_and_entropy_is_the_expected_surprise():
    everything = LOGITS[0, :1].expand(3, -1)
    logprobs = token_logprobs(everything, torch.arange(3), temperature=0.7)
    assert logprobs.exp().sum().item() == pytest.approx(1)
    surprise = -(logprobs.exp() * logprobs).sum().item()
    assert token_entropy(everything, temperature=0.7)[0].item() == pytest.approx(surprise)


def test_a_shift_of_all_logits_changes_nothing():
    torch.testing.assert_close(token_logprobs(LOGITS + 1e4, IDS), token_logprobs(LOGITS, IDS))
    torch.testing.assert_close(token_entropy(LOGITS + 1e4), token_entropy(LOGITS))


def test_an_impossible_token_neither_counts_nor_spoils_a_gradient():
    logits = torch.tensor([[0.5, -1.0, float("-inf")]], dtype=torch.float64, requires_grad=True)
    possible = logits[:, :2].detach()
    torch.testing.assert_close(token_entropy(logits), token_entropy(possible))
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([1])), token_logprobs(possible, torch.tensor([1])))
    assert token_logprobs(logits, torch.tensor([2])).item() == float("-inf")
    (token_entropy(logits) + token_logprobs(logits, torch.tensor([1]))).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2] == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature must be above 0, got"):
        token_logprobs(LOGITS, IDS, temperature=temperature)
    with pytest.raises(ValueError, match=r"temperature must be above 0, got"):
        token_entropy(LOGITS, temperature=temperature)


def test_gradients():
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: token_logprobs(z, IDS), logits)
    assert torch.autograd.gradcheck(lambda z: token_logprobs(z, IDS, temperature=0.7), logits)
    assert torch.autograd.gradcheck(lambda z: token_entropy(z, temperature=0.7), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 1, 5, 8, 37])
def test_pieces_give_the_same_numbers_to_the_last_bit_and_the_same_gradients(pieces, num_rows, dtype):
    dice = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(num_rows, 300, generator=dice)).to(dtype).requires_grad_()
    ids = torch.randint(300, (num_rows,), generator=dice)
    weights = torch.randn(num_rows, generator=dice)

    def outcome():
        logged = token_logprobs(logits, ids, temperature=0.7)
        return logged.detach(), token_entropy(logits, temperature=0.7), torch.autograd.grad(logged, logits, weights)[0]

    whole = outcome()
    with pieces():
        cut = outcome()
    assert torch.equal(cut[0], whole[0])
    assert torch.equal(cut[1], whole[1])
    assert cut[2].dtype == dtype
    torch.testing.assert_close(cut[2], whole[2])


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1.5), (torch.bfloat16, 1.8)])
def test_of_a_large_vocabulary_little_more_than_the_gradient_is_held_beside_the_logits(monkeypatch, dtype, most):
    monkeypatch.setattr(module, "_LARGE_VOCABULARY", LARGE_VOCABULARY)
    logits = torch.zeros(64, LARGE_VOCABULARY, dtype=dtype, requires_grad=True)
    ids = torch.zeros(64, dtype=torch.int64)

    def learn():
        torch.autograd.grad(token_cross_entropy(logits, ids), logits)

    assert recorded(learn, logits.device).peak < most * logits.nbytes
    monkeypatch.setattr(module, "_LARGE_VOCABULARY", 2**60)
    assert recorded(learn, logits.device).peak > 2.9 * logits.nbytes
