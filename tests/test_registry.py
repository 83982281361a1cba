import copy
import gc
import importlib
import inspect
import pickle
import sys
import warnings

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lightning_rlhf import RewardFunction, registry
from lightning_rlhf.errors import PluginError, UnknownComponentError
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.plugin_system.reporting import PluginWarning

PLUGIN = """
    from lightning_rlhf import Component, hookimpl

    @hookimpl
    def rlhf_reward_functions():
        return [
            Component("sentiment", "feelings:Sentiment", "how kind a response is"),
            Component("made", "feelings:make_sentiment", "the same by a function"),
            Component("wide", "feelings:make_any"),
            Component("lowercase", "feelings:lowercase"),
        ]
"""

FEELINGS = '''
    from __future__ import annotations

    from typing import TYPE_CHECKING, Literal

    from lightning_rlhf import RewardFunction

    if TYPE_CHECKING:
        from decimal import Decimal


    class Sentiment(RewardFunction):
        """Scores how kind a response is.

        Args:
            lexicon: which word list to use.
            scale: what the score is multiplied by.
        """

        def __init__(self, lexicon: Literal["small", "large"] = "small", scale: float = 1.0) -> None:
            self.lexicon = lexicon
            self.scale = scale

        def __call__(self, prompts, responses, **columns):
            return [self.scale for _ in responses]


    def make_sentiment(words: int, scale: float = 2.0) -> Sentiment:
        """A sentiment whose word list is chosen by its size.

        Args:
            words: how many words at least.
            scale: the factor.
        """
        return Sentiment("large" if words > 100 else "small", scale)


    def make_any(scale: float = 3.0, exact: bool = True, context: Decimal | None = None) -> RewardFunction:
        """Annotated with the base class.

        Args:
            scale: the factor of it.
            exact: false makes something wrong.
        """
        return Sentiment(scale=scale) if exact else "wrong"


    class lowercase(Sentiment):
        pass
'''


@pytest.fixture
def published(fake_plugins):
    gc.collect()  # classes of earlier tests
    fake_plugins.install("kind-words", PLUGIN, feelings=FEELINGS)
    registry.publish()
    return fake_plugins


class Trained:
    """Stands for a module.

    Args:
        rewards: reward functions.
        single: one of them.
    """

    def __init__(self, rewards: list[RewardFunction] | None = None, single: RewardFunction | None = None) -> None:
        self.rewards = rewards


@pytest.fixture
def parser(published):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Trained, "model")
    return parser


def class_path(name):
    return f"lightning_rlhf.registry.reward_function.{name}"


def test_a_short_name_resolves_in_a_list_with_typed_arguments(parser):
    config = parser.parse_args(["--model.rewards+=sentiment", "--model.rewards.scale=2"])
    assert config.model.rewards[0].class_path == class_path("sentiment")
    assert config.model.rewards[0].init_args.as_dict() == {"lexicon": "small", "scale": 2.0}
    reward = parser.instantiate(config).model.rewards[0]
    assert reward(["p"], ["r"]) == [2.0]
    assert type(reward).__mro__[1].__qualname__ == "Sentiment"


def test_short_names_resolve_in_a_config_file(parser, tmp_path):
    file = tmp_path / "config.yaml"
    rewards = ["sentiment", {"class_path": "made", "init_args": {"words": 500}}]
    file.write_text(yaml.safe_dump({"model": {"rewards": rewards, "single": "wide"}}))
    made = parser.instantiate(parser.parse_args([f"--config={file}"])).model.rewards
    assert [(reward.lexicon, reward.scale) for reward in made] == [("small", 1.0), ("large", 2.0)]


@pytest.mark.parametrize(
    "words",
    [
        ["--model.rewards+=sentiment", "--model.rewards.scale=much"],
        ["--model.rewards+=sentiment", "--model.rewards.lexicon=huge"],
        ["--model.rewards+=sentiment", "--model.rewards.words=3"],
        ["--model.rewards+=made", "--model.rewards.words=many"],
        ["--model.rewards+=made", "--model.rewards.lexicon=small"],
        ["--model.rewards+=made"],
        ["--model.rewards+=hatred"],
        ["--model.rewards+=linear"],
    ],
)
def test_a_wrong_name_or_argument_is_refused_at_parse_time(parser, words):
    with pytest.raises(ArgumentError):
        parser.parse_args(words)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        (
            "sentiment",
            ["Scores how kind", "which word list to use", "{small,large}", "what the score is multiplied by"],
        ),
        ("made", ["whose word list is chosen", "how many words at least. (required, type: int)", "the factor."]),
        ("wide", ["the factor of it. (type: float, default: 3.0)"]),
    ],
)
def test_the_help_of_a_short_name_describes_the_arguments_of_its_target(parser, capsys, name, texts):
    with pytest.raises(SystemExit) as exited:
        parser.parse_args(["--model.rewards.help", name])
    assert exited.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(text in shown for text in texts)


def test_the_help_of_the_parser_lists_each_short_name_once_and_no_abstract_class(parser):
    shown = "".join(parser.format_help().split())
    listed = shown.partition("knownsubclasses:")[2].partition(")")[0].split(",")
    for name in ("sentiment", "made", "wide"):
        assert listed.count(class_path(name)) == 1
    assert listed.count("feelings.lowercase") == 1
    assert len(listed) == len(set(listed))
    assert "lightning_rlhf.RewardFunction" not in listed


def test_a_class_that_already_has_the_name_is_published_as_it_is(parser):
    config = parser.parse_args(["--model.rewards+=lowercase"])
    assert config.model.rewards[0].class_path == "feelings.lowercase"
    assert registry.lookup("reward_function", "lowercase").__module__ == "feelings"


def test_the_class_path_of_the_target_works_as_well(parser):
    config = parser.parse_args(["--model.rewards+=feelings.Sentiment", "--model.rewards+=feelings.make_any"])
    assert [reward.class_path for reward in config.model.rewards] == ["feelings.Sentiment", "feelings.make_any"]


def test_a_saved_config_is_read_in_a_fresh_process(parser, published, tmp_path):
    words = [
        "--model.rewards+=sentiment",
        "--model.rewards.scale=4",
        "--model.rewards+=made",
        "--model.rewards.words=9",
    ]
    (tmp_path / "saved.yaml").write_text(parser.dump(parser.parse_args(words)))
    result = published.python(f"""
        from jsonargparse import ArgumentParser
        from lightning_rlhf import RewardFunction
        parser = ArgumentParser()
        parser.add_argument("--config", action="config")
        parser.add_argument("--model.rewards", type=list[RewardFunction])
        config = parser.parse_args(["--config", {str(tmp_path / "saved.yaml")!r}])
        print([reward([""], [""]) for reward in parser.instantiate(config).model.rewards])
        print("torch" in __import__("sys").modules)
    """)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:2] == ["[[4.0], [2.0]]", "False"]


def test_the_module_of_a_kind_is_importable_in_a_fresh_process(published):
    result = published.python("""
        import importlib, sys
        kind = importlib.import_module("lightning_rlhf.registry.reward_function")
        assert "feelings" not in sys.modules
        print(kind.sentiment.__qualname__, "sentiment" in dir(kind))
        from lightning_rlhf.registry.reward_function import made
        print(made(words=1).scale)
    """)
    assert result.stdout == "sentiment True\n2.0\n", result.stderr


@pytest.mark.parametrize(
    ("name", "init_args"), [("sentiment", {"scale": 5.0}), ("made", {"words": 3, "scale": 5.0}), ("wide", {"scale": 5})]
)
def test_components_can_be_pickled_and_copied(published, name, init_args):
    reward = registry.create("reward_function", name, **init_args)
    for other in (pickle.loads(pickle.dumps(reward)), copy.deepcopy(reward)):
        assert type(other) is type(reward)
        assert vars(other) == vars(reward)


def test_a_pickled_component_is_read_in_a_fresh_process(published, tmp_path):
    (tmp_path / "reward.pickle").write_bytes(pickle.dumps(registry.create("reward_function", "sentiment", scale=6.0)))
    result = published.python(f"""
        import pickle
        print(pickle.load(open({str(tmp_path / "reward.pickle")!r}, "rb")).scale)
    """)
    assert result.stdout == "6.0\n", result.stderr


def test_a_class_is_published_once(published):
    first = registry.lookup("reward_function", "sentiment")
    registry.publish()
    assert registry.lookup("reward_function", "sentiment") is first
    assert sys.modules["lightning_rlhf.registry.reward_function"].sentiment is first
    assert vars(registry).keys() >= set(KINDS)
    assert not [name for name in vars(registry) if name.endswith("_made")]


def test_a_function_that_makes_something_else_than_it_says_is_an_error(published):
    with pytest.raises(PluginError, match="reward_function 'wide' must make a RewardFunction, got a str"):
        registry.create("reward_function", "wide", exact=False)


def test_published_classes_are_not_abstract(published):
    for name in ("sentiment", "made", "wide"):
        assert not inspect.isabstract(registry.lookup("reward_function", name))
        assert issubclass(registry.lookup("reward_function", name), RewardFunction)


def test_a_faulty_target_leaves_the_others_published(fake_plugins):
    gc.collect()
    source = """
        from lightning_rlhf import Component, RewardFunction, hookimpl

        class Sealed(RewardFunction):
            def __init_subclass__(cls):
                raise TypeError("no heirs")
            def __call__(self, prompts, responses, **columns):
                return []

        @hookimpl
        def rlhf_reward_functions():
            return [Component("sealed", Sealed), Component("absent", "no_such_module:One")]
    """
    fake_plugins.install("bad", source)
    fake_plugins.install("kind-words", PLUGIN, feelings=FEELINGS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        registry.publish()
        registry.publish()
    mine = [str(warning.message) for warning in caught if "plug-in bad" in str(warning.message)]
    assert len(mine) == 2
    assert "'sealed' of plug-in bad 1.0 is set aside: deriving from its target raised TypeError: no heirs" in mine[0]
    assert "'absent' of plug-in bad 1.0 is set aside: importing 'no_such_module' raised" in mine[1]
    assert registry.create("reward_function", "sentiment").scale == 1.0
    for name in ("sealed", "absent"):
        with pytest.raises(UnknownComponentError, match="is set aside"):
            registry.lookup("reward_function", name)


def test_a_name_of_two_plugins_is_not_published_but_their_class_paths_work(fake_plugins):
    gc.collect()
    for name in ("first", "second"):
        fake_plugins.install(name, PLUGIN.replace("feelings", f"{name}_feelings"), **{f"{name}_feelings": FEELINGS})
    registry.publish()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reward", type=RewardFunction)
    with pytest.raises(ArgumentError):
        parser.parse_args(["--reward=sentiment"])
    with pytest.raises(UnknownComponentError, match=r"must have one owner, got first 1\.0 .* and second 1\.0"):
        registry.lookup("reward_function", "sentiment")
    config = parser.parse_args(["--reward=second_feelings.Sentiment"])
    assert type(parser.instantiate(config).reward).__module__ == "second_feelings"


def test_the_module_of_a_kind_says_why_it_lacks_a_name(published):
    module = importlib.import_module("lightning_rlhf.registry.dataset")
    with pytest.raises(AttributeError, match=r"dataset must be one of file, hub, got 'files'\. Did you mean file"):
        _ = module.files
    assert not hasattr(module, "__path__")


def test_data_loader_workers_do_not_repeat_the_warnings(fake_plugins):
    fake_plugins.install("bad", "raise RuntimeError('no licence')")
    fake_plugins.install("kind-words", PLUGIN, feelings=FEELINGS)
    script = fake_plugins.folder / "spawning.py"
    script.write_text(
        "import multiprocessing\n"
        "def work(reward):\n"
        "    return reward.scale\n"
        "if __name__ == '__main__':\n"
        "    from lightning_rlhf import registry\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(work, [registry.create('reward_function', 'sentiment')]))\n"
    )
    result = fake_plugins.python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert result.stdout == "[1.0]\n", result.stderr
    assert result.stderr.count("no licence") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_builtin_target_resolves(fake_plugins, kind):
    manager = plugin_manager()
    for name in manager.components(kind):
        assert registry.lookup(kind, name).__doc__ or inspect.getdoc(manager.resolve(kind, name))


def test_publishing_warns_of_nothing_when_there_is_no_other_plugin(fake_plugins):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PluginWarning)
        registry.publish()
