"""The page of guarantees: each has a test, and each test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NUM_RULES = 43
ITEM = re.compile(r"^(\d+)\. (.*?)(?=^\d+\. |^#|\Z)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
ITEMS = [(int(number), text) for number, text in ITEM.findall(PAGE)]
NAMED = sorted(set(TEST.findall(PAGE)))


@cache
def names_in(path):
    """Names of the tests of a file, those of a class as `Class::test`; nothing is imported."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    holders = [("", tree), *((f"{node.name}::", node) for node in tree.body if isinstance(node, ast.ClassDef))]
    return {
        prefix + node.name
        for prefix, holder in holders
        for node in holder.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_guarantees_are_numbered_without_a_gap_and_hold_every_rule():
    assert [number for number, _ in ITEMS] == list(range(1, len(ITEMS) + 1))
    assert len(ITEMS) >= NUM_RULES


@pytest.mark.parametrize(("number", "text"), ITEMS, ids=[str(number) for number, _ in ITEMS])
def test_a_guarantee_says_something_and_names_its_tests(number, text):
    promise, label, tests = text.partition("Tests:")
    assert label, number
    assert len(promise.split()) > 5
    assert TEST.search(tests)
    # nothing but tests stands there, so that one with a slip in its name is not passed over
    named = tests.partition("\n\n")[0]
    assert not re.sub(r"[\s,.]", "", TEST.sub("", named)), named


@pytest.mark.parametrize(("path", "name"), NAMED, ids=["::".join(test) for test in NAMED])
def test_a_test_that_is_named_exists(path, name):
    assert (ROOT / path).is_file(), path
    assert name in names_in(path)


def test_every_planted_mistake_stands_in_the_table():
    tree = ast.parse((ROOT / "tests/oracle/test_mutants.py").read_text(encoding="utf-8"))
    mutants = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args] == ["monkeypatch"]
    ]
    rows = re.findall(r"^\| [^|]+ \| (\d\.\d\d) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(mutants) + 1  # the first without a mistake
    assert float(rows[0]) <= 0.03
    assert all(float(row) >= 0.1 for row in rows[1:])
