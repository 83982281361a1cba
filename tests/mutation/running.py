"""Runs tests on a mutant: in a copy of the tree, in a process that has loaded the heavy libraries beforehand."""

import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from mutants import Mutant
from selection import Round

HEAVY = (
    "torch",
    "numpy",
    "lightning.pytorch",
    "transformers",
    "datasets",
    "torchmetrics",
    "jsonargparse",
    "jaxtyping",
    "beartype",
    "pytest",
)
TEST_TIMEOUT_S = 120
MEMORY_BYTES = 10 * 2**30
FILE_BYTES = 2 * 2**30

KILLED, SURVIVED, UNFINISHED = "killed", "survived", "unfinished"


def copy_tree(root: Path, target: Path) -> None:
    """What git knows of, and what is new."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def load_heavy() -> None:
    """Takes seconds, once; the processes for the mutants begin with it."""
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


class Place:
    """A copy of the tree, for one mutant at a time.

    Args:
        root: the tree.
        folder: for the copy and what the tests write.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.tree = folder / "tree"
        self._folder = folder
        self._original: tuple[Path, bytes, float] | None = None
        shutil.rmtree(folder, ignore_errors=True)
        copy_tree(root, self.tree)

    def start(self, mutant: Mutant, plan: Sequence[Round], limit_s: float) -> int:
        """Changes the copy and starts the tests; the process that runs them."""
        file = self.tree / mutant.path
        source, changed = file.read_bytes(), file.stat().st_mtime
        self._original = file, source, changed
        file.write_bytes(mutant.apply(source))
        # a compiled file is told by time and size: that of the original must not pass for the mutant's
        os.utime(file, (changed, changed - 86400))
        (self._folder / "verdict.json").unlink(missing_ok=True)
        process = os.fork()
        if not process:
            try:
                (self._folder / "verdict.json").write_text(json.dumps(self._tried(plan, limit_s)), encoding="utf-8")
            finally:
                os._exit(0)
        return process

    def verdict(self) -> dict[str, Any]:
        """What became of the mutant, whose place the original takes again."""
        assert self._original is not None
        file, source, changed = self._original
        file.write_bytes(source)
        os.utime(file, (changed, changed))
        return dict(json.loads((self._folder / "verdict.json").read_text(encoding="utf-8")))

    def _tried(self, plan: Sequence[Round], limit_s: float) -> dict[str, Any]:
        """Each round in a process of its own: what one leaves behind is no matter to the next."""
        end = time.monotonic() + limit_s
        number = 0
        for tests in plan:
            left = end - time.monotonic()
            if left <= 0:
                return {"status": UNFINISHED, "by": "", "tests": number}
            answer = self._folder / "round.json"
            answer.unlink(missing_ok=True)
            process = os.fork()
            if not process:
                os.setsid()
                try:
                    answer.write_text(json.dumps(self._round(tests)), encoding="utf-8")
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            if not _waited(process, left):
                return {"status": UNFINISHED, "by": "", "tests": number}
            if not answer.is_file():
                return {"status": KILLED, "by": "the process died", "tests": number}
            found = json.loads(answer.read_text(encoding="utf-8"))
            number += found["tests"]
            if found["failed"]:
                return {"status": KILLED, "by": found["failed"], "tests": number}
        return {"status": SURVIVED, "by": "", "tests": number}

    def _round(self, tests: Round) -> dict[str, Any]:
        import pytest

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        log = os.open(self._folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(self.tree)
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTHONPATH"] = str(self.tree)
        sys.path[:] = [str(self.tree), *sys.path[1:]]  # instead of this script's folder
        watcher = _Watcher(tests.left_out)
        options = ["-x", "-q", "-n0", "--timeout", str(TEST_TIMEOUT_S), "-p", "no:cacheprovider", "--tb=line", "-rN"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plug-ins that are loaded beforehand
        options += ["--basetemp", str(self._folder / "tmp")]
        code = pytest.main([*options, *tests.files], plugins=[watcher])
        failed = watcher.failed or ("pytest could not start" if code not in (0, 1, 5) else "")
        return {"failed": failed, "tests": watcher.number}


class _Watcher:
    """Leaves tests out, and notes the first that fails."""

    def __init__(self, left_out: Set[str]) -> None:
        self.failed = ""
        self.number = 0
        self._left_out = left_out

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self._left_out])
        items[:] = [item for item in items if item.nodeid not in self._left_out]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or f"{report.nodeid} (at import)"

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.number += report.when == "call"
        if report.failed:
            self.failed = self.failed or report.nodeid


def _waited(process: int, seconds: float) -> bool:
    """Whether it ended by itself; otherwise it is ended, with all that it started."""
    end = time.monotonic() + seconds
    ended = 0
    while not ended and time.monotonic() < end:
        time.sleep(0.05)
        ended, _ = os.waitpid(process, os.WNOHANG)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not ended:
        os.waitpid(process, 0)
    return bool(ended)
