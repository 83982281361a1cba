"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

from lightning_rlhf import rollout

MODULES = [module.name for module in pkgutil.iter_modules(rollout.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    module = importlib.import_module(f"lightning_rlhf.rollout.{name}")
    assert doctest.testmod(module).failed == 0


def test_the_package_offers_what_it_lists():
    assert all(hasattr(rollout, public) for public in rollout.__all__)
