import doctest

import pytest

from lightning_rlhf.plugin_system import hookspecs
from lightning_rlhf.plugin_system.component import KINDS, Component
from lightning_rlhf.plugin_system.hookspecs import BASES, HOOKS, HookSpecs
from lightning_rlhf.plugin_system.offers import offered_components
from lightning_rlhf.plugin_system.targets import TargetLoader


def test_there_is_one_hook_and_one_base_class_per_kind():
    assert tuple(HOOKS.values()) == KINDS
    assert tuple(BASES) == KINDS
    assert {name for name in vars(HookSpecs) if name.startswith("rlhf_")} == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_docstring_of_a_hook_holds_a_plugin_that_works(hook):
    [example] = [test for test in doctest.DocTestFinder().find(getattr(HookSpecs, hook), hook) if test.examples]
    example.globs = {}
    runner = doctest.DocTestRunner()
    runner.run(example, clear_globs=False)
    assert runner.failures == 0
    plugin = type("Plugin", (), {hook: staticmethod(example.globs[hook])})
    [offer] = offered_components([plugin], "example", "1.0")
    assert offer.kind == HOOKS[hook]
    assert issubclass(TargetLoader().load(offer.target, BASES[offer.kind]), BASES[offer.kind])


def test_a_hook_is_called_once():
    calls = []

    class Plugin:
        @hookspecs.hookimpl
        def rlhf_models(self):
            calls.append(1)
            return [Component("one", "package.module:One")]

    offered_components([Plugin()], "example", "1.0")
    assert calls == [1]
