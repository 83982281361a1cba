"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

from lightning_rlhf import functional

MODULES = [
    importlib.import_module(f"lightning_rlhf.functional.{module.name}")
    for module in pkgutil.iter_modules(functional.__path__)
]
FUNCTIONS = [
    (module, name)
    for module in MODULES
    for name in module.__all__
    if inspect.isfunction(inspect.unwrap(getattr(module, name)))
]


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=[name for _, name in FUNCTIONS])
def test_the_example_of_a_function_prints_what_it_says(module, name):
    # unwrapped, because doctest passes over what the import hook has wrapped
    function = inspect.unwrap(getattr(module, name))
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(vars(module)))
    assert any(step.want for step in example.examples), f"{name} must have an example with a number"
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=[name for _, name in FUNCTIONS])
def test_the_docstring_of_a_function_has_every_section(module, name):
    function = getattr(module, name)
    text = inspect.getdoc(function)
    assert text.splitlines()[0].strip()
    assert "Args:" in text
    assert "Returns:" in text
    assert all(f"{argument}: " in text for argument in inspect.signature(function).parameters)
