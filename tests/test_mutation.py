"""The script that draws mutants: a sample can be drawn again, and nothing in it is a change that means nothing."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("mutation")

SOURCE = '''
"""Words that are not changed: 1 + 1."""
from typing import TYPE_CHECKING

__all__ = ["f"]
if TYPE_CHECKING:
    LIMIT = 5


def f(a: int = 3, *rest: "list[1]") -> int:
    """Not 4 either."""
    assert a < 9
    if a > 2 and rest:
        raise ValueError(f"a must be {a + 1}, got {max(1, a)}.")
    return f(min(a, 7), rest) - 6
'''


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("mutants")
    sys.modules.pop("mutants", None)


@pytest.fixture
def sample(mutants, monkeypatch):
    yield importlib.import_module("sample")
    sys.modules.pop("sample", None)


def test_mutants_change_what_a_program_does_and_nothing_else(mutants, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE, encoding="utf-8")
    found = [mutant for mutant in mutants.mutants_of(tmp_path, path) if mutants.differs(mutant, path.read_bytes())]
    changed = {mutant.diff(path.read_bytes()).splitlines()[-1].strip("+ ") for mutant in found}
    assert changed == {
        'def f(a: int = 4, *rest: "list[1]") -> int:',
        "if (a > 2 or rest):",
        "if (not (a > 2 and rest)):",
        "if a >= 2 and rest:",
        "if a > 3 and rest:",
        "pass",
        "return None",
        "return (f(min(a, 7), rest) + 6)",
        "return f(rest, min(a, 7)) - 6",
        "return f(max(a, 7), rest) - 6",
        "return f(min(a, 8), rest) - 6",
        "return f(min(a, 7), rest) - 7",
    }
    for mutant in found:
        ast.parse(mutant.apply(path.read_bytes()))
    assert len({mutant.key(path.read_bytes()) for mutant in found}) == len(found)


def test_a_sample_is_the_same_for_a_seed_and_a_larger_one_begins_with_it(sample):
    first, same, larger, other = (sample.drawn(*each, "rollout") for each in ((1, 5), (1, 5), (1, 9), (2, 5)))
    assert first == same == larger[:5] != other
    assert len({(mutant.path, mutant.line) for mutant in larger}) == 9
    assert all(mutant.path.startswith("lightning_rlhf/rollout/") for mutant in larger)
