import pytest

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.plugin_system.provenance import (
    check_same_plugins,
    components_among,
    plugin_differences,
    versions_in_use,
)
from lightning_rlhf.registry import create
from lightning_rlhf.version import __version__

OURS = {"lightning-rlhf": __version__}
PLUGIN = """
    from lightning_rlhf import Component, ModelSource, RewardFunction, hookimpl
    from lightning_rlhf.builtins.reward_functions import RegexReward

    class Same(RewardFunction):
        def __call__(self, prompts, responses, **columns):
            return [0.5] * len(responses)

    class NAMESmall(ModelSource):
        def load(self):
            pass

    def please() -> RegexReward:
        return RegexReward("please")

    @hookimpl
    def rlhf_reward_functions():
        return [
            Component("NAME_same", "NAME:Same"),
            Component("NAME_please", please),
            Component("NAME_length", "lightning_rlhf.builtins.reward_functions:LengthReward"),
        ]

    @hookimpl
    def rlhf_models():
        return [Component("NAME_small", NAMESmall)]
"""


@pytest.fixture
def one_and_two(fake_plugins):
    fake_plugins.install("one", PLUGIN.replace("NAME", "one"), version="1.5")
    fake_plugins.install("two", PLUGIN.replace("NAME", "two"))


def used(*components):
    return versions_in_use(plugin_manager(), components)


def test_only_the_plug_ins_that_a_run_uses_are_in_use(one_and_two):
    assert used() == OURS
    assert used(create("reward_function", "length"), None, 3) == OURS
    assert used(create("reward_function", "one_same")) == {**OURS, "one": "1.5"}
    assert used(create("reward_function", "one_same"), create("model", "two_small")) == {
        **OURS,
        "one": "1.5",
        "two": "1.0",
    }


def test_a_component_that_is_named_by_its_class_path_is_in_use(one_and_two):
    from one import Same

    class Mine(Same):
        """Of a notebook, on top of a plug-in's."""

    assert used(Same()) == used(Mine()) == {**OURS, "one": "1.5"}


@pytest.mark.parametrize("name", ["one_please", "one_length"])
def test_a_component_of_someone_elses_class_is_in_use_under_its_own_name(one_and_two, name):
    assert used(create("reward_function", name)) == {**OURS, "one": "1.5"}
    assert used(create("reward_function", "regex", pattern="x")) == OURS


def test_a_model_is_in_use_by_its_short_name(one_and_two):
    assert used("two_small") == {**OURS, "two": "1.0"}
    assert used("some/model") == OURS


def test_components_are_found_in_lists_and_mappings():
    length, stop = create("reward_function", "length"), create("reward_function", "stop_token")
    assert components_among({"rewards": [length], "weights": [1.0], "more": {"a": (stop,)}, "name": "x"}) == [
        length,
        stop,
    ]


def test_differences_name_what_came_went_and_changed():
    assert plugin_differences({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "3"}) == [
        "a 1 -> absent",
        "b 1 -> 2",
        "d absent -> 3",
    ]


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
