import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from lightning_rlhf.rollout.cache import make_room


@pytest.fixture
def caches():
    """transformers' cache, and the same one with room, after a first pass of 3 positions over 4 rows."""
    pair = DynamicCache(), DynamicCache()
    states = torch.randn(2, 4, 2, 3, 5)
    for cache in pair:
        for layer in range(2):
            cache.update(states[0], states[1], layer)
    make_room(pair[1], longest=40)
    return pair


def assert_appended_alike(caches, number=1):
    rows = caches[0].layers[0].keys.shape[0]
    for layer in range(2):
        states = torch.randn(2, rows, 2, number, 5)
        plain, roomy = (cache.update(states[0], states[1], layer) for cache in caches)
        assert torch.equal(plain[0], roomy[0])
        assert torch.equal(plain[1], roomy[1])
        assert caches[0].get_seq_length(layer) == caches[1].get_seq_length(layer)


def test_a_cache_with_room_holds_what_transformers_own_holds(caches):
    for number in (1, 1, 5, 1, 30, 1):  # the last goes beyond the length that was announced
        assert_appended_alike(caches, number)


def test_rows_of_a_cache_with_room_are_taken_out_repeated_and_shortened_as_of_transformers_own(caches):
    changes = (
        lambda cache: cache.batch_select_indices(torch.tensor([0, 2, 3])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.crop(-2),
        lambda cache: cache.batch_select_indices(torch.tensor([5])),
    )
    for change in changes:
        assert_appended_alike(caches)
        for cache in caches:
            change(cache)
        assert_appended_alike(caches)
        assert_appended_alike(caches)


def test_keys_stay_where_they_are_while_there_is_room(caches):
    assert_appended_alike(caches)
    layer = caches[1].layers[0]
    before = layer.keys.data_ptr()
    assert_appended_alike(caches)
    assert layer.keys.data_ptr() == before


def test_no_more_memory_is_taken_than_the_longest_row_needs(caches):
    for _ in range(37):
        assert_appended_alike(caches)
        assert caches[1].layers[0].keys.untyped_storage().nbytes() <= 4 * 2 * 40 * 5 * 4


def test_layers_that_do_not_grow_are_left_alone():
    cache = DynamicCache()
    cache.layers = [DynamicSlidingWindowLayer(sliding_window=4)]
    cache.update(torch.randn(1, 1, 3, 2), torch.randn(1, 1, 3, 2), 0)
    make_room(cache, longest=9)
    assert type(cache.layers[0]) is DynamicSlidingWindowLayer
