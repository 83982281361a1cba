"""Which tests see a line: those of a recorded run that ran it, the tests of its own folder first.

A recording may be older than the source. Lines that moved are followed; a line that is new counts as run by the tests
of its function, and a test that is new as one that runs it.
"""

import ast
import difflib
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import coverage

PACKAGE = "lightning_rlhf"


class Round(NamedTuple):
    """Tests that are run together."""

    files: list[str]
    left_out: frozenset[str]
    """Tests in these files that are not run; one that nobody has heard of is run."""


class Recording:
    """What one run of the plain suite recorded.

    Args:
        folder: that `sample.py record` wrote.
        root: of the source as it is now.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._root = root
        self._folder = folder
        notes = [json.loads(line) for path in folder.glob("tests.*.jsonl") for line in path.open(encoding="utf-8")]
        self.seconds: dict[str, float] = {note["test"]: note["seconds"] for note in notes}
        self._users: dict[str, set[str]] = defaultdict(set)
        for note in notes:
            for fixture in note["fixtures"]:
                self._users[fixture].add(note["test"])
        self._data = coverage.CoverageData(str(folder / "combined"))
        self._data.read()
        self._files = {path.rpartition(f"/{PACKAGE}/")[2]: path for path in self._data.measured_files()}
        self._lines: dict[str, dict[int, set[str]]] = {}

    def plan(self, path: str, line: int, budget_s: float) -> list[Round]:
        """The tests for a line of a file, those that are likely to see it first.

        Args:
            path: of the file.
            line: from 1.
            budget_s: what the first round takes at most, beyond the tests of the file itself.
        """
        tests, known = self._tests_of(path, line), self.seconds.keys()
        own = self._own_files(path)
        cost: dict[str, float] = defaultdict(float)
        for test in tests:
            cost[test.partition("::")[0]] += self.seconds[test]
        present = [file for file in cost if file not in own and (self._root / file).is_file()]
        # the tests of the same package are likelier to look at what the line does, and short ones say so sooner
        package = f"tests/{Path(path).relative_to(PACKAGE).parent.as_posix()}/".replace("/./", "/")
        present.sort(key=lambda file: (not file.startswith(package), cost[file]))
        first, spent = [*own], 0.0
        for file in present:
            spent += cost[file] + 0.3
            if spent > budget_s and first:
                break
            first.append(file)
        # then the rest, and what the file's own tests see without running the line: something that an earlier one kept
        of_own = {test for test in known if test.partition("::")[0] in own}
        then = [*own, *self._new_files(package), *(file for file in present if file not in first)]
        rounds = (
            Round(first, frozenset(known - tests)),
            Round(then, frozenset((known - tests - of_own) | (of_own & tests))),
        )
        return [each for each in rounds if each.files]

    def _new_files(self, package: str) -> list[str]:
        """Files of the same package, or of none, that were not there when the run was recorded."""
        recorded = {test.partition("::")[0] for test in self.seconds}
        there = [file for folder in (package, "tests/") for file in sorted((self._root / folder).glob("test_*.py"))]
        named = dict.fromkeys(file.relative_to(self._root).as_posix() for file in there)
        return [name for name in named if name not in recorded and not self._is_deselected(name)]

    def _is_deselected(self, name: str) -> bool:
        """Whether the whole file is for other runs than the plain one."""
        source = (self._root / name).read_text(encoding="utf-8")
        return any(f"pytestmark = pytest.mark.{mark}" in source for mark in ("slow", "long", "real"))

    def _own_files(self, path: str) -> list[str]:
        """The file that mirrors this one; where there is none, nothing."""
        inner = Path(path).relative_to(PACKAGE)
        mirror = Path("tests") / inner.with_name(f"test_{inner.stem.lstrip('_')}.py")
        return [mirror.as_posix()] if (self._root / mirror).is_file() else []

    def _tests_of(self, path: str, line: int) -> set[str]:
        lines = self._recorded(path)
        old = self._before(path)
        if lines.get(old.get(line, -1)):
            return lines[old[line]]
        # run at import, or new: whatever runs the lines around it, the innermost function or class that is run at all
        source = (self._root / path).read_bytes()
        for first, last in sorted(_spans(source), key=lambda span: span[1] - span[0]):
            if first <= line <= last:
                found = set().union(*(lines.get(old.get(number, -1), ()) for number in range(first, last + 1)))
                if found:
                    return found
        # a file that does nothing but define: its package's tests import it, if none is known to run it
        package = f"tests/{Path(path).relative_to(PACKAGE).parts[0]}/"
        return set().union(*lines.values()) or {test for test in self.seconds if test.startswith(package)}

    def _recorded(self, path: str) -> dict[int, set[str]]:
        """Tests by line of the recorded source."""
        if path not in self._lines:
            self._lines[path] = {}
            file = self._files.get(path.removeprefix(f"{PACKAGE}/"))
            if file is not None:
                contexts = self._data.contexts_by_lineno(file)
                self._lines[path] = {line: self._named(names) for line, names in contexts.items()}
        return self._lines[path]

    def _named(self, contexts: list[str]) -> set[str]:
        tests: set[str] = set()
        for context in contexts:
            for name in context.split("|"):
                if name.startswith("fixture "):
                    fixture, _, place = name.removeprefix("fixture ").partition(" of ")
                    tests |= {test for test in self._users[fixture] if test.startswith(place)}
                elif name:
                    tests.add(name)
        return tests & self.seconds.keys()

    def _before(self, path: str) -> dict[int, int]:
        """Lines as they are now by those of the recorded source."""
        recorded = self._folder / "source" / path
        if not recorded.is_file():
            return {}
        old, new = (file.read_text(encoding="utf-8").splitlines() for file in (recorded, self._root / path))
        matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
        return {
            block.b + place + 1: block.a + place + 1
            for block in matcher.get_matching_blocks()
            for place in range(block.size)
        }


def _spans(source: bytes) -> list[tuple[int, int]]:
    """First and last line of every function and class."""
    return [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
