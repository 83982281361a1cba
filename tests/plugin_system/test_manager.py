import warnings

import pytest

from lightning_rlhf.errors import ConfigError, PluginError, UnknownComponentError
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.reporting import PluginWarning
from lightning_rlhf.version import __version__

GOOD = """
    from lightning_rlhf import Component, RewardFunction, hookimpl

    class Shout(RewardFunction):
        def __call__(self, prompts, responses, **columns):
            return [float(response.isupper()) for response in responses]

    @hookimpl
    def rlhf_reward_functions():
        return [Component("shout", Shout, "1 for capitals")]
"""

START = "from lightning_rlhf import Component, RewardFunction, hookimpl\n"


def hook(body, name="rlhf_reward_functions", arguments=""):
    return f"{START}@hookimpl\ndef {name}({arguments}):\n    {body}\n"


BROKEN = {
    "an import error": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "SystemExit at import": ("raise SystemExit(3)", "importing 'bad' raised SystemExit: 3"),
    "a syntax error": ("def", "SyntaxError"),
    "an import that prints": ("print('hello')", "importing 'bad' must not print, got 'hello'"),
    "an import that reads input": ("input()", "importing 'bad' must not read standard input"),
    "an unknown hook": (hook("return []", "rlhf_rewards"), "a hook must be one of .*, got 'rlhf_rewards'"),
    "an extra argument": (hook("return []", arguments="config"), "Argument.*config.* are declared in the hookimpl"),
    "a hook without its mark": ("def rlhf_models(): return []", "hook rlhf_models must be marked with hookimpl"),
    "a hook that raises": (hook("1 / 0"), "hook rlhf_reward_functions raised ZeroDivisionError: division by zero"),
    "a hook that exits": (hook("raise SystemExit"), "hook rlhf_reward_functions raised SystemExit"),
    "a hook that prints": (hook("print('noise'); return []"), "hook rlhf_reward_functions must not print"),
    "a generator that raises": (hook("yield 1 / 0"), "hook rlhf_reward_functions raised ZeroDivisionError"),
    "a hook that returns nothing": (hook("pass"), "must return an iterable of Component, got NoneType"),
    "a hook that returns one component": (
        hook("return Component('one', 'bad:One')"),
        "must return an iterable of Component, got Component",
    ),
    "a hook that returns text": (hook("return 'sentiment'"), "must return an iterable of Component, got str"),
    "a wrong item": (hook("return [('name', 'bad:One')]"), "must return components only, got"),
    "a bad name": (
        hook("return [Component('Bad-Name', 'bad:One')]"),
        r"must match \[a-z\]\[a-z0-9_\]\*, got 'Bad-Name'",
    ),
    "a bad target": (hook("return [Component('one', 'bad.One')]"), "must be 'package.module:Name', got 'bad.One'"),
    "a name twice": (
        hook("return [Component('one', 'bad:One'), Component('one', 'bad:Two')]"),
        "reward function 'one' must be offered once, got it twice",
    ),
    "a built-in name": (
        hook("return [Component('length', 'bad:One')]"),
        "reward function 'length' must not take the name of a built-in component",
    ),
    "a wrapper": (
        f"{START}@hookimpl(wrapper=True)\ndef rlhf_models():\n    return (yield)\n",
        "hook rlhf_models must not be a wrapper",
    ),
    "an old-style wrapper": (
        f"{START}@hookimpl(hookwrapper=True)\ndef rlhf_models():\n    yield\n",
        "hook rlhf_models must not be a wrapper",
    ),
    "a first-result hook": (
        "import pluggy\n@pluggy.HookspecMarker('lightning_rlhf')(firstresult=True)\ndef rlhf_models(): pass\n",
        "rlhf_models must implement a hook, got a hook specification",
    ),
    "a hookimpl that asks for the first result": (
        f"{START}@hookimpl(firstresult=True)\ndef rlhf_models(): pass\n",
        "unexpected keyword argument 'firstresult'",
    ),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_set_aside_whole_with_one_warning_and_the_others_keep_working(fake_plugins, source, reason):
    fake_plugins.install("bad", source)
    fake_plugins.install("good", GOOD)
    with pytest.warns(PluginWarning, match=f"plug-in bad 1.0 is set aside: .*{reason}") as caught:
        manager = fake_plugins.manager()
    assert len(caught) == 1
    statuses = {record.distribution: record.status for record in manager.plugins}
    assert statuses == {"lightning-rlhf": "active", "bad": "broken", "good": "active"}
    bad = next(record for record in manager.plugins if record.distribution == "bad")
    assert bad.components == ()
    assert bad.version == "1.0"
    assert manager.resolve("reward_function", "shout")()(["a"], ["B"]) == [1.0]
    assert manager.versions() == {"lightning-rlhf": __version__, "good": "1.0"}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_strict_mode_raises_at_a_broken_plugin(fake_plugins, source, reason):
    fake_plugins.install("bad", source)
    with pytest.raises(PluginError, match=reason):
        fake_plugins.manager(LIGHTNING_RLHF_STRICT_PLUGINS="1")


TARGETS = {
    "a missing module": ("'no_such_module:One'", "importing 'no_such_module' raised ModuleNotFoundError"),
    "a missing attribute": ("'heavy:Nothing'", "its target 'heavy:Nothing' must exist, got no 'Nothing' there"),
    "a wrong base class": ("'heavy:Other'", r"must be a subclass of RewardFunction, got Other\(object\)"),
    "a class of another kind": ("'heavy:Template'", r"must be a subclass of RewardFunction, got Template\(PromptTem"),
    "an abstract class": ("'heavy:Abstract'", "its target Abstract must define __call__"),
    "something that is no class": ("'heavy:NUMBER'", "must be a class or a function, got 3"),
    "a function without annotation": ("'heavy:bare'", "bare must be annotated with the class it returns, got None"),
    "a function of another class": ("'heavy:other'", r"must be a subclass of RewardFunction, got Other\(object\)"),
    "an annotation that cannot be read": ("'heavy:unreadable'", "return annotation of its target must be readable"),
    "an import that raises": ("'raising:One'", "importing 'raising' raised RuntimeError: no licence"),
    "an import that exits": ("'leaving:One'", "importing 'leaving' raised SystemExit: 1"),
    "an import that prints": ("'printing:One'", "importing 'printing' must not print, got 'noise'"),
    "an import whose child process prints": ("'spawning:One'", "importing 'spawning' must not print, got 'child'"),
    "an import that reads input": ("'reading:One'", "importing 'reading' must not read standard input"),
    "an import that reads input and hides it": ("'hiding:One'", "importing 'hiding' must not read standard input"),
}

MODULES = {
    "heavy": """
        from lightning_rlhf import PromptTemplate, RewardFunction
        NUMBER = 3
        class Other: pass
        class Template(PromptTemplate):
            def render(self, messages): return []
        class Abstract(RewardFunction): pass
        def bare(): return 1
        def other() -> Other: return Other()
        def unreadable() -> "Missing": return 1
    """,
    "raising": "raise RuntimeError('no licence')",
    "leaving": "raise SystemExit(1)",
    "printing": "print('noise')\nfrom bad import One",
    "spawning": "import subprocess\nsubprocess.run(['echo', 'child'])\nfrom bad import One",
    "reading": "import sys\nsys.stdin.read()\nfrom bad import One",
    "hiding": "try:\n    input('? ')\nexcept Exception:\n    pass\nfrom bad import One",
}


def with_target(target):
    return f"""{START}
class One(RewardFunction):
    def __call__(self, prompts, responses, **columns):
        return [1.0 for _ in responses]

@hookimpl
def rlhf_reward_functions():
    return [Component("faulty", {target}), Component("sound", One)]
"""


@pytest.mark.parametrize(("target", "reason"), TARGETS.values(), ids=TARGETS)
def test_a_faulty_target_sets_aside_its_component_alone(fake_plugins, target, reason):
    fake_plugins.install("bad", with_target(target), **MODULES)
    manager = fake_plugins.manager()
    message = f"reward function 'faulty' of plug-in bad 1.0 is set aside: .*{reason}"
    with pytest.warns(PluginWarning, match=message) as caught, pytest.raises(UnknownComponentError, match=message):
        manager.resolve("reward_function", "faulty")
    assert len(caught) == 1
    with pytest.raises(UnknownComponentError, match=message):
        manager.resolve("reward_function", "faulty")  # told again, but neither tried nor warned about again
    assert "faulty" not in manager.components("reward_function")
    assert manager.resolve("reward_function", "sound")()(["a"], ["b"]) == [1.0]


@pytest.mark.parametrize(("target", "reason"), TARGETS.values(), ids=TARGETS)
def test_strict_mode_raises_at_a_faulty_target(fake_plugins, target, reason):
    fake_plugins.install("bad", with_target(target), **MODULES)
    manager = fake_plugins.manager(LIGHTNING_RLHF_STRICT_PLUGINS="1")
    with pytest.raises(PluginError, match=reason):
        manager.resolve("reward_function", "faulty")


def test_a_module_that_printed_stays_refused_for_its_other_components(fake_plugins):
    source = hook("return [Component('one', 'noisy:One'), Component('two', 'noisy:Two')]")
    fake_plugins.install("bad", source, noisy="print('noise')\nfrom lightning_rlhf import RewardFunction\n")
    manager = fake_plugins.manager()
    for name in ("one", "two"):
        with pytest.warns(PluginWarning, match="must not print"), pytest.raises(UnknownComponentError, match="print"):
            manager.resolve("reward_function", name)


def test_targets_named_by_strings_are_imported_only_when_used(fake_plugins):
    fake_plugins.install("bad", with_target("'raising:One'"), **MODULES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(fake_plugins.manager().components("reward_function")) >= {"faulty", "sound", "length"}


def test_a_plugin_that_excludes_this_version_is_incompatible_and_never_imported(fake_plugins):
    fake_plugins.install("future", "raise RuntimeError", version="2.0", requires=("numpy", "lightning-rlhf>=99"))
    with pytest.warns(PluginWarning, match="plug-in future 2.0 is set aside: it requires lightning-rlhf>=99") as caught:
        manager = fake_plugins.manager()
    assert len(caught) == 1
    assert manager.plugins[1].status == "incompatible"
    with pytest.raises(PluginError, match="it requires lightning-rlhf>=99, this is"):
        fake_plugins.manager(LIGHTNING_RLHF_STRICT_PLUGINS="1")


@pytest.mark.parametrize(
    "requirement",
    [
        f"lightning-rlhf=={__version__}",
        "lightning-rlhf>=99; extra == 'next'",
        "lightning-rlhf>=99; python_version < '3'",
        "lightning-rlhf-extras>=99",
        "not a requirement",
    ],
)
def test_a_requirement_that_does_not_rule_this_version_out_changes_nothing(fake_plugins, requirement):
    fake_plugins.install("good", GOOD, requires=(requirement,))
    assert fake_plugins.manager().plugins[1].status == "active"


@pytest.mark.parametrize(
    ("environ", "active", "reason"),
    [
        ({}, {"one-plugin", "two"}, None),
        ({"LIGHTNING_RLHF_LOAD_PLUGINS": ""}, set(), "LIGHTNING_RLHF_LOAD_PLUGINS does not name it"),
        ({"LIGHTNING_RLHF_LOAD_PLUGINS": "two"}, {"two"}, "LIGHTNING_RLHF_LOAD_PLUGINS does not name it"),
        ({"LIGHTNING_RLHF_LOAD_PLUGINS": " one-plugin , two,"}, {"one-plugin", "two"}, None),
        ({"LIGHTNING_RLHF_DISABLE_PLUGINS": "one-plugin"}, {"two"}, "LIGHTNING_RLHF_DISABLE_PLUGINS names it"),
        ({"LIGHTNING_RLHF_DISABLE_PLUGINS": "One_Plugin"}, {"two"}, "LIGHTNING_RLHF_DISABLE_PLUGINS names it"),
        (
            {"LIGHTNING_RLHF_LOAD_PLUGINS": "one-plugin,two", "LIGHTNING_RLHF_DISABLE_PLUGINS": "two"},
            {"one-plugin"},
            "LIGHTNING_RLHF_DISABLE_PLUGINS names it",
        ),
    ],
)
def test_the_environment_selects_plugins_and_a_disabled_one_is_never_imported(fake_plugins, environ, active, reason):
    fake_plugins.install("One.Plugin", "", entry_points="[lightning_rlhf]\nx = one_plugin_hooks\n", one_plugin_hooks="")
    fake_plugins.install("two", "")
    records = fake_plugins.manager(**environ).plugins[1:]
    assert {record.distribution for record in records if record.status == "active"} == active
    assert {record.reason for record in records if record.status == "disabled"} == ({reason} if reason else set())


def test_builtin_components_cannot_be_disabled(fake_plugins):
    manager = fake_plugins.manager(LIGHTNING_RLHF_LOAD_PLUGINS="", LIGHTNING_RLHF_DISABLE_PLUGINS="lightning-rlhf")
    assert manager.plugins[0].distribution == "lightning-rlhf"
    assert manager.plugins[0].status == "active"
    assert set(manager.components("dataset")) == {"file", "hub"}


def test_a_name_of_two_plugins_is_refused_with_both_named_and_both_stay(fake_plugins):
    fake_plugins.install("first", with_target("One"))
    fake_plugins.install("second", GOOD.replace('"shout"', '"faulty"'), version="2.0")
    manager = fake_plugins.manager()
    assert manager.versions().keys() == {"lightning-rlhf", "first", "second"}
    assert set(manager.conflicts("reward_function")) == {"faulty"}
    assert "faulty" not in manager.components("reward_function")
    with pytest.raises(UnknownComponentError, match=r"first 1\.0 \(first\.One\) and second 2\.0 \(second\.Shout\)"):
        manager.find("reward_function", "faulty")
    assert manager.find("reward_function", "sound").distribution == "first"
    with pytest.raises(PluginError, match="must have one owner"):
        fake_plugins.manager(LIGHTNING_RLHF_STRICT_PLUGINS="1")


def test_one_name_may_be_used_for_two_kinds(fake_plugins):
    fake_plugins.install("good", hook("return [Component('length', 'good:Length')]", "rlhf_datasets"))
    manager = fake_plugins.manager()
    assert manager.find("dataset", "length").distribution == "good"
    assert manager.find("reward_function", "length").distribution == "lightning-rlhf"


def test_an_unknown_name_lists_the_offered_ones_and_what_is_not_loaded(fake_plugins):
    fake_plugins.install("bad", "raise RuntimeError('no licence')")
    with pytest.warns(PluginWarning):
        manager = fake_plugins.manager()
    with pytest.raises(UnknownComponentError) as caught:
        manager.find("ranking_converter", "lineal")
    assert str(caught.value) == (
        "ranking converter must be one of borda, bradley_terry, linear, zscore, got 'lineal'. Did you mean linear? "
        "These plug-ins are not loaded: plug-in bad 1.0 (broken: importing 'bad' raised RuntimeError: no licence)."
    )
    with pytest.raises(ConfigError, match="the kind of a component must be one of"):
        manager.find("reward", "length")


def test_a_name_that_was_set_aside_with_its_plugin_says_so(fake_plugins):
    fake_plugins.install(
        "bad", hook("return [Component('mine', 'bad:One'), Component('length', 'bad:Two')]"), version="0.3"
    )
    with pytest.warns(PluginWarning):
        manager = fake_plugins.manager()
    with pytest.raises(
        UnknownComponentError, match=r"'mine' cannot be used: plug-in bad 0\.3 is set aside: .*'length'"
    ):
        manager.find("reward_function", "mine")
    assert manager.find("reward_function", "length").distribution == "lightning-rlhf"


@pytest.mark.parametrize(
    "environ", [{"RANK": "1"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "2", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "3"}]
)
def test_only_rank_zero_warns(fake_plugins, monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    fake_plugins.install("bad", "raise RuntimeError")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fake_plugins.manager().plugins[1].status == "broken"


def test_a_plugin_may_have_several_entry_points_an_instance_among_them(fake_plugins):
    source = f"""{START}
class Hooks:
    @hookimpl
    def rlhf_models(self):
        yield Component("of_instance", "several:Model")

hooks = Hooks()

@hookimpl
def rlhf_models():
    return (Component("of_module", "several:Model"),)
"""
    entries = "[console_scripts]\nx = y:z\n[lightning_rlhf]\na = several\nb = several:hooks\nc = several\n"
    fake_plugins.install("several", source, entry_points=entries)
    assert set(fake_plugins.manager().components("model")) == {"tiny", "of_module", "of_instance"}


def test_an_entry_point_file_that_cannot_be_read_breaks_its_plugin_only(fake_plugins):
    fake_plugins.install("bad", "", entry_points="[lightning_rlhf]\nthis is no entry\n")
    fake_plugins.install("good", GOOD)
    with pytest.warns(PluginWarning, match=r"plug-in bad 1\.0 is set aside: its entry_points\.txt must be readable"):
        manager = fake_plugins.manager()
    assert "shout" in manager.components("reward_function")


def test_other_groups_and_other_distributions_are_not_plugins(fake_plugins):
    fake_plugins.install("other", "raise RuntimeError", entry_points="[console_scripts]\nlightning_rlhf = other:main\n")
    assert [record.distribution for record in fake_plugins.manager().plugins] == ["lightning-rlhf"]


def test_interrupting_the_import_of_a_plugin_interrupts(fake_plugins):
    fake_plugins.install("bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        fake_plugins.manager()


def test_plugins_come_in_an_order_that_does_not_depend_on_the_path(fake_plugins):
    for name in ("zebra", "ape", "mouse"):
        fake_plugins.install(name, "")
    names = [record.distribution for record in fake_plugins.manager().plugins]
    assert names == ["lightning-rlhf", "ape", "mouse", "zebra"]


@pytest.mark.parametrize(
    ("kind", "name"), [(offer, name) for offer in KINDS for name in ("file", "plain", "length", "linear", "tiny")]
)
def test_builtin_names_are_reserved_per_kind(fake_plugins, kind, name):
    manager = fake_plugins.manager()
    owners = {"file": "dataset", "plain": "prompt_template", "length": "reward_function", "linear": "ranking_converter"}
    assert (name in manager.components(kind)) == (owners.get(name, "model") == kind)
