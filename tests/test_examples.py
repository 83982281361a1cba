"""The examples in the docstrings of every module run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import lightning_rlhf

ROOT = Path(lightning_rlhf.__file__).parent
OWN_TESTS = ("functional", "rollout")
"""Packages that run theirs beside their other tests."""
MODULES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in OWN_TESTS and ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
