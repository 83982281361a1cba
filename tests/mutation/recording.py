"""A pytest plug-in that records which test runs which line of the package, fixtures and child processes included.

`sample.py --record` starts pytest with it. Lines that a fixture of several tests runs are the fixture's, and belong to
every test that asks for it.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

FOLDER = "MUTATION_RECORD"
CONTEXT = "MUTATION_CONTEXT"

CONFIG = """
[run]
source_pkgs = lightning_rlhf
data_file = {folder}/coverage
parallel = true
context = ${{MUTATION_CONTEXT-}}
sigterm = true
patch = subprocess
disable_warnings = module-not-measured, no-data-collected, module-not-imported, already-imported
"""


class Recorder:
    """Switches the coverage's context with every test and shared fixture, and notes what each test takes and needs."""

    def __init__(self, folder: Path, worker: str) -> None:
        config = folder / "coverage.ini"
        self._coverage = coverage.Coverage(config_file=str(config))
        self._notes = (folder / f"tests.{worker}.jsonl").open("a", encoding="utf-8")
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """Everything in here is the test's."""
        self._switch(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            note = {
                "test": item.nodeid,
                "seconds": round(time.perf_counter() - start, 3),
                "fixtures": sorted(getattr(item, "fixturenames", [])),
            }
            self._notes.write(json.dumps(note) + "\n")
            self._notes.flush()
            self._switch("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        """Everything in here is the fixture's, if other tests get it too."""
        before = os.environ[CONTEXT]
        if fixturedef.scope != "function":
            self._switch(f"fixture {fixturedef.argname} of {fixturedef.baseid}")
        try:
            return (yield)
        finally:
            self._switch(before)

    def pytest_unconfigure(self) -> None:
        """Writes what was seen."""
        self._coverage.stop()
        self._coverage.save()
        self._notes.close()

    def _switch(self, context: str) -> None:
        os.environ[CONTEXT] = context  # children take it from there
        self._coverage.switch_context(context)


def pytest_configure(config: pytest.Config) -> None:
    """Records in every process that runs tests."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None and getattr(config.option, "numprocesses", None):
        return  # the process that only hands out the tests
    config.pluginmanager.register(Recorder(Path(os.environ[FOLDER]), worker or "main"), "mutation-recorder")
