import pytest

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.provenance import check_same_plugins


def test_equal_ranks_pass_whatever_the_order_of_their_plugins():
    check_same_plugins([])
    check_same_plugins([{"a": "1"}])
    check_same_plugins([{"a": "1", "b": "2"}, {"b": "2", "a": "1"}])


def test_a_difference_stops_with_rank_plugin_and_both_versions():
    with pytest.raises(PluginError) as caught:
        check_same_plugins([{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "3", "c": "4"}])
    assert str(caught.value) == (
        "every rank must have the same plug-ins, got a difference: rank 2 has a 3, rank 0 1; "
        "rank 2 has b not at all, rank 0 2; rank 2 has c 4, rank 0 not at all."
    )
