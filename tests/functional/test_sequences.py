import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional import completion_mask, position_ids

rows = st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1))


def test_completion_mask_by_hand():
    mask = completion_mask(torch.tensor([[5, 2, 2, 7], [5, 6, 7, 8], [2, 5, 6, 7], [5, 6, 7, 2]]), [2])
    assert mask.long().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert mask.dtype == torch.bool


def test_the_first_of_several_stop_ids_ends_the_response():
    assert completion_mask(torch.tensor([[5, 3, 2, 7]]), (2, 3)).long().tolist() == [[1, 1, 0, 0]]


def test_without_a_stop_id_a_response_is_whole():
    assert completion_mask(torch.tensor([[5, 2]]), []).all()


@given(rows, st.sets(st.integers(0, 4), max_size=3))
def test_completion_mask_agrees_with_a_slow_loop(ids, stop_ids):
    expected = []
    for row in ids:
        stopped, kept = False, []
        for token in row:
            kept.append(not stopped)
            stopped = stopped or token in stop_ids
        expected.append(kept)
    assert completion_mask(torch.tensor(ids), sorted(stop_ids)).tolist() == expected


@given(rows)
def test_what_follows_the_stop_token_does_not_matter(ids):
    ids = torch.tensor(ids)
    mask = completion_mask(ids, [0])
    for padding in (0, 1, 4):  # the stop id itself, so that a padding id equal to it changes nothing, and others
        assert torch.equal(completion_mask(ids.masked_fill(~mask, padding), [0]), mask)


def test_position_ids_by_hand():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3], [0, 0, 0, 0, 0]]
    assert position_ids(mask).dtype == torch.int64


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_position_ids_agree_with_a_slow_loop(mask):
    assert position_ids(torch.tensor([mask])).tolist() == [[sum(mask[:t]) for t in range(len(mask))]]


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_a_row_has_the_same_positions_alone_and_padded_on_either_side(padding):
    alone = position_ids(torch.ones(1, 4, dtype=torch.bool))
    left = position_ids(torch.tensor([[False] * padding + [True] * 4]))
    right = position_ids(torch.tensor([[True] * 4 + [False] * padding]))
    assert torch.equal(left[:, padding:], alone)
    assert torch.equal(right[:, :4], alone)
