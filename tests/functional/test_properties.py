"""What holds for every formula, whatever the shape, the mask, the ties and the padding."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_rlhf import functional as rlhf

GARBAGE = (0.0, 1e9, float("inf"), float("-inf"), float("nan"))
VOCABULARY = 3


class Batch(NamedTuple):
    """Numbers for any formula. `B` and `R` may be 0; rows of the mask may be empty or have holes."""

    x: Tensor
    y: Tensor
    z: Tensor
    mask: Tensor
    ranks: Tensor
    """Of few values: many ties."""
    logits: Tensor
    ids: Tensor


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    shape = draw(st.integers(0, 3)), draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.5, 0.8, 1.0]))
    num_places = draw(st.integers(1, 4))
    x, y, z = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return Batch(
        x=x,
        y=y,
        z=z,
        mask=torch.rand(shape, generator=generator) < density,
        ranks=torch.randint(num_places, shape, generator=generator),
        logits=torch.randn(*shape, VOCABULARY, generator=generator, dtype=torch.float64),
        ids=torch.randint(VOCABULARY, shape, generator=generator),
    )


def gae(batch: Batch) -> Tensor:
    advantages, returns = rlhf.generalized_advantage_estimation(
        batch.x, batch.y, batch.mask, gamma=0.9, gae_lambda=0.95
    )
    return advantages + 3 * returns


def margins(batch: Batch) -> Tensor:
    return batch.y[:, :, None] - batch.y[:, None, :]


# one number for a whole batch, over the entries that the mask keeps
REDUCTIONS: dict[str, Callable[[Batch], Tensor]] = {
    "approx_kl": lambda b: rlhf.approx_kl(b.x, b.y, b.mask),
    "centering_penalty": lambda b: rlhf.centering_penalty(b.x, b.ranks, b.mask),
    "clip_fraction": lambda b: rlhf.clip_fraction(b.x, b.y, b.mask, clip_range=0.2),
    "clipped_policy_loss": lambda b: rlhf.clipped_policy_loss(b.x, b.y, b.z, b.mask, clip_range=0.2),
    "clipped_value_loss": lambda b: rlhf.clipped_value_loss(b.x, b.y, b.z, b.mask, value_clip_range=0.2),
    "explained_variance": lambda b: rlhf.explained_variance(b.x, b.y, b.mask),
    "masked_mean": lambda b: rlhf.masked_mean(b.x, b.mask),
    "pairwise_ranking_loss": lambda b: rlhf.pairwise_ranking_loss(b.x, b.ranks, b.mask, margins=margins(b)),
    "plackett_luce_loss": lambda b: rlhf.plackett_luce_loss(b.x, b.ranks, b.mask),
    "ranking_accuracy": lambda b: rlhf.ranking_accuracy(b.x, b.ranks, b.mask),
    "regression_loss": lambda b: rlhf.regression_loss(b.x, b.y, b.mask),
}
# one number per token, 0 where the mask is False
OF_TOKENS: dict[str, Callable[[Batch], Tensor]] = {
    "generalized_advantage_estimation": gae,
    "masked_whiten": lambda b: rlhf.masked_whiten(b.x, b.mask),
    "shape_rewards": lambda b: rlhf.shape_rewards(b.y, b.x, b.mask, kl_coef=0.1),
}
# one number per entry, which depends on that entry alone
OF_ENTRIES: dict[str, Callable[[Batch], Tensor]] = {
    "kl_k1": lambda b: rlhf.kl_k1(b.x, b.y),
    "kl_k2": lambda b: rlhf.kl_k2(b.x, b.y),
    "kl_k3": lambda b: rlhf.kl_k3(b.x, b.y),
    "token_entropy": lambda b: rlhf.token_entropy(b.logits, temperature=0.7),
    "token_logprobs": lambda b: rlhf.token_logprobs(b.logits, b.ids, temperature=0.7),
}
OF_IDS = {"completion_mask", "next_token_loss", "position_ids", "token_cross_entropy"}
MASKED = REDUCTIONS | OF_TOKENS
ORDER_OF_CANDIDATES = ("centering_penalty", "pairwise_ranking_loss", "plackett_luce_loss", "ranking_accuracy")


def test_every_function_has_its_properties():
    functions = {name for name in rlhf.__all__ if callable(getattr(rlhf, name))}
    assert functions == MASKED.keys() | OF_ENTRIES.keys() | OF_IDS


def with_gradients(function: Callable[[Batch], Tensor], batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The value, and the gradient of each tensor of floats."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (batch.x, batch.y, batch.z, batch.logits)]
    x, y, z, logits = leaves
    value = function(batch._replace(x=x, y=y, z=z, logits=logits))
    if not value.requires_grad:
        return value, [torch.zeros_like(leaf) for leaf in leaves]
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    gradients = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(leaves, gradients, strict=True)
    ]


def padded(batch: Batch, rows: int, columns: int, garbage: float) -> Batch:
    """Rows below and columns on the right that the mask leaves out, with garbage in them."""

    def around(tensor: Tensor, filler: float) -> Tensor:
        num_rows, num_columns, *rest = tensor.shape
        grown = torch.full((num_rows + rows, num_columns + columns, *rest), filler, dtype=tensor.dtype)
        grown[:num_rows, :num_columns] = tensor
        return grown

    return Batch(
        *(around(tensor, garbage) for tensor in (batch.x, batch.y, batch.z)),
        mask=around(batch.mask, False),
        ranks=around(batch.ranks, 0),
        logits=around(batch.logits, garbage),
        ids=around(batch.ids, 0),
    )


def reordered(batch: Batch, rows: Tensor) -> Batch:
    return Batch(*(tensor[rows] for tensor in batch))


def assert_same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MASKED)
@given(batch=batches())
def test_any_shape_and_any_mask_give_finite_numbers_and_finite_gradients(name, batch):
    value, gradients = with_gradients(MASKED[name], batch)
    assert value.shape == (batch.x.shape if name in OF_TOKENS else ())
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    if name in OF_TOKENS:
        assert not value[~batch.mask].any()
    if not batch.mask.any():
        assert not value.any()
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", MASKED)
@given(batch=batches(), rows=st.integers(0, 2), columns=st.integers(0, 3), garbage=st.sampled_from(GARBAGE))
def test_padding_changes_neither_value_nor_gradient(name, batch, rows, columns, garbage):
    num_rows, num_columns = batch.x.shape
    value, gradients = with_gradients(MASKED[name], batch)
    around, around_gradients = with_gradients(
        # weighted by its place, so that the gradients of the padded batch are compared with the same weights
        lambda b: MASKED[name](b)[:num_rows, :num_columns] if name in OF_TOKENS else MASKED[name](b),
        padded(batch, rows, columns, garbage),
    )
    assert_same(around, value)
    for gradient, expected in zip(around_gradients, gradients, strict=True):
        assert_same(gradient[:num_rows, :num_columns], expected)
        assert not gradient[num_rows:].any()
        assert not gradient[:, num_columns:].any()


@pytest.mark.parametrize("name", MASKED)
@given(batch=batches(), garbage=st.sampled_from(GARBAGE))
def test_what_stands_under_the_mask_changes_nothing(name, batch, garbage):
    value, gradients = with_gradients(MASKED[name], batch)
    fill = {field: getattr(batch, field).masked_fill(~batch.mask, garbage) for field in ("x", "y", "z")}
    dirty, dirty_gradients = with_gradients(MASKED[name], batch._replace(**fill))
    assert_same(dirty, value)
    for gradient, expected in zip(dirty_gradients, gradients, strict=True):
        assert_same(gradient, expected)
    for gradient in dirty_gradients[:3]:
        assert not gradient[~batch.mask].any()


@pytest.mark.parametrize("name", MASKED)
@given(batch=batches(), data=st.data())
def test_the_order_of_the_rows_does_not_matter(name, batch, data):
    order = torch.tensor(data.draw(st.permutations(range(len(batch.x)))), dtype=torch.int64)
    value = MASKED[name](batch)
    assert_same(MASKED[name](reordered(batch, order)), value[order] if name in OF_TOKENS else value)


@pytest.mark.parametrize("name", [*ORDER_OF_CANDIDATES, "regression_loss"])
@given(batch=batches(), data=st.data())
def test_the_order_of_the_candidates_does_not_matter_whatever_ties(name, batch, data):
    order = torch.tensor(data.draw(st.permutations(range(batch.x.shape[1]))), dtype=torch.int64)
    assert_same(REDUCTIONS[name](Batch(*(tensor[:, order] for tensor in batch))), REDUCTIONS[name](batch))


@pytest.mark.parametrize("name", ORDER_OF_CANDIDATES)
@given(batch=batches())
def test_rankings_that_tie_throughout_give_0_with_zero_gradient(name, batch):
    value, gradients = with_gradients(REDUCTIONS[name], batch._replace(ranks=torch.full_like(batch.ranks, 2)))
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", OF_ENTRIES)
@given(batch=batches(), data=st.data())
def test_a_number_per_entry_depends_on_that_entry_alone(name, batch, data):
    value = OF_ENTRIES[name](batch)
    assert value.shape == batch.x.shape
    assert value.isfinite().all()
    flat = Batch(*(tensor.flatten(0, 1) for tensor in batch))  # any shape of batch is taken, a flat one too
    assert_same(OF_ENTRIES[name](flat), value.flatten())
    if value.numel():
        place = data.draw(st.integers(0, value.numel() - 1))
        alone = Batch(*(tensor[place] for tensor in flat))
        assert_same(OF_ENTRIES[name](alone), value.flatten()[place])


@given(batch=batches())
def test_log_probabilities_are_at_most_0_and_entropies_within_their_bounds(batch):
    assert (rlhf.token_logprobs(batch.logits, batch.ids) <= 0).all()
    entropy = rlhf.token_entropy(batch.logits)
    assert (entropy >= 0).all()
    assert (entropy <= torch.tensor(float(VOCABULARY)).log() + 1e-9).all()


@given(batch=batches(), stop_ids=st.lists(st.integers(0, VOCABULARY), max_size=2), tail=st.integers(0, 3))
def test_a_completion_mask_is_a_prefix_that_holds_at_most_its_stop_token(batch, stop_ids, tail):
    mask = rlhf.completion_mask(batch.ids, stop_ids)
    assert mask.shape == batch.ids.shape
    assert (mask[:, 1:] <= mask[:, :-1]).all()
    stops = torch.isin(batch.ids, torch.tensor(stop_ids, dtype=torch.int64))
    for kept, stop in zip(mask, stops, strict=True):
        assert not stop[kept][:-1].any()
        assert kept.all() or stop[kept][-1]
    longer = torch.cat([batch.ids, torch.zeros(len(batch.ids), tail, dtype=torch.int64)], dim=1)
    assert torch.equal(rlhf.completion_mask(longer, stop_ids)[:, : batch.ids.shape[1]], mask)


@given(batch=batches(), left=st.integers(0, 3), right=st.integers(0, 3))
def test_positions_count_the_tokens_from_0_whatever_the_padding(batch, left, right):
    positions = rlhf.position_ids(batch.mask)
    for row, mask in zip(positions, batch.mask, strict=True):
        assert row[mask].tolist() == list(range(int(mask.sum())))
    around = torch.nn.functional.pad(batch.mask, (left, right))
    assert torch.equal(rlhf.position_ids(around)[around], positions[batch.mask])


@given(batch=batches(), columns=st.integers(0, 3), garbage=st.sampled_from(GARBAGE))
def test_labels_that_are_left_out_and_padding_change_no_cross_entropy(batch, columns, garbage):
    labels = batch.ids.masked_fill(~batch.mask, -100)
    logits = batch.logits.clone().requires_grad_()
    value = rlhf.next_token_loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    targets = labels[:, 1:][labels[:, 1:] != -100]
    read = batch.logits[:, :-1][labels[:, 1:] != -100]
    assert_same(value.detach(), rlhf.token_cross_entropy(read, targets))
    size = max(batch.ids.shape[1] - 1, 0)  # the last column of logits predicts nothing
    dirty = torch.full((len(labels), batch.ids.shape[1] + columns, VOCABULARY), garbage, dtype=torch.float64)
    dirty[:, :size][labels[:, 1:] != -100] = read
    longer = torch.nn.functional.pad(labels, (0, columns), value=-100)
    dirty.requires_grad_()
    again = rlhf.next_token_loss(dirty, longer)
    assert_same(again.detach(), value.detach())
    (dirty_gradient,) = torch.autograd.grad(again, dirty)
    assert_same(dirty_gradient[:, : batch.ids.shape[1]], gradient)


def test_the_estimators_by_name_are_the_functions():
    assert dict(rlhf.KL_ESTIMATORS) == {"k1": rlhf.kl_k1, "k2": rlhf.kl_k2, "k3": rlhf.kl_k3}
