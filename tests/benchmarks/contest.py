"""Contestants in turns: A B C A B C …, ratios of each round, and whether the work was equal."""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rows import Contestant, Row

_WORKER = Path(__file__).parent / "worker.py"


class Spread(NamedTuple):
    """A ratio over the rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.lowest:.3g}-{self.highest:.3g})"


def spread(ratios: Sequence[float]) -> Spread:
    """Median, minimum and maximum."""
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


class Runner:
    """A contestant's process.

    Args:
        label: its name in messages.
        module: its file in `contestants/`.
        python: of its environment.
        spec: the work.
        num_threads: for its matrix products.
        folder: where it may write; what it prints is kept there.
    """

    def __init__(
        self, label: str, module: str, python: Path, spec: Mapping[str, Any], num_threads: int, folder: Path
    ) -> None:
        self.label = label
        self.repetitions: list[dict[str, Any]] = []
        self._log = folder / f"{label.replace(' ', '_').replace('/', '_')}-{num_threads}.log"
        command = [str(python), str(_WORKER), module, "--spec", json.dumps(dict(spec)), "--threads", str(num_threads)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=_surroundings(num_threads, folder),
            )
        self.ready: dict[str, Any] = {}

    def start(self) -> None:
        """Waits until models and data are there."""
        self.ready = self._hear("ready")

    def repeat(self) -> dict[str, Any]:
        """One repetition."""
        self._say("go")
        done = self._hear("done")
        self.repetitions.append(done)
        return done

    def stop(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            try:
                self._say("stop")
                self._process.wait(timeout=10)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _hear(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
            raise SystemExit(f"{self.label} must report {event!r}, got the end of its process:\n{end}")
        message: dict[str, Any] = json.loads(line)
        if message["event"] != event:
            raise SystemExit(f"{self.label} must report {event!r}, got {message}.")
        return message


def _surroundings(num_threads: int, folder: Path) -> dict[str, str]:
    """The environment of a contestant: no accelerator, no network, its caches in the run's own folder."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "WANDB_DISABLED": "true",
    }


class Contest:
    """One row with one number of threads.

    Args:
        row: the row.
        pythons: the Python of each environment that it names.
        num_threads: for every contestant.
        repeats: rounds that are measured, after one that is thrown away.
    """

    def __init__(self, row: Row, pythons: Mapping[str, Path], num_threads: int, repeats: int) -> None:
        self.row = row
        self.num_threads = num_threads
        self.repeats = repeats
        self._pythons = pythons

    def run(self, prepared: Mapping[str, Any]) -> dict[str, Any]:
        """Alternates the contestants and returns what was measured.

        Args:
            prepared: what the row's `prepare` returned.
        """
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            folder = Path(name)
            yardstick = Runner("matmul", "matmul", Path(sys.executable), {}, self.num_threads, folder)
            runners = [yardstick]
            try:
                yardstick.start()
                for contestant in self.row.contestants:
                    spec = {**self.row.spec, **prepared, **contestant.settings, "threads": self.num_threads}
                    python = self._pythons[contestant.environment]
                    runner = Runner(contestant.label, contestant.module, python, spec, self.num_threads, folder)
                    runners.append(runner)
                    runner.start()  # one after the other: none loads while another one is measured
                for _ in range(self.repeats + 1):
                    for runner in runners:
                        runner.repeat()
            finally:
                for runner in runners:
                    runner.stop()
        return self._result(yardstick, runners[1:])

    def _result(self, yardstick: Runner, runners: Sequence[Runner]) -> dict[str, Any]:
        first = runners[0]
        result: dict[str, Any] = {
            "row": self.row.name,
            "threads": self.num_threads,
            "repeats": self.repeats,
            "gflop_per_s": statistics.median(_rates(yardstick, "flop", "wall_s")) / 1e9,
            "gflop_per_cpu_s": statistics.median(_rates(yardstick, "flop", "cpu_s")) / 1e9,
            "contestants": [],
            "bars": [],
            "unequal": unequal(self.row, runners),
        }
        for runner in runners:
            peak = runner.repetitions[-1]["peak"]
            entry = {
                "label": runner.label,
                "ready": runner.ready,
                "repetitions": runner.repetitions,
                "per_s": statistics.median(_rates(runner, self.row.work, "wall_s")),
                "per_cpu_s": statistics.median(_rates(runner, self.row.work, "cpu_s")),
                "peak_memory": peak,
                "memory_after_loading": runner.ready["memory"],
                "risen_memory": peak - runner.ready["memory"],
            }
            if runner is not first:
                entry["wall_ratio"] = _ratios(first, runner, self.row.work, "wall_s")
                entry["cpu_ratio"] = _ratios(first, runner, self.row.work, "cpu_s")
                entry["memory_ratio"] = first.repetitions[-1]["peak"] / peak
            result["contestants"].append(entry)
        result["bars"] = [self._judged(bar, result["contestants"]) for bar in self.row.bars]
        return result

    def _judged(self, bar: Any, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A bar with its value: CPU seconds decide with one thread, wall-clock seconds with several."""
        entry = next(entry for entry in entries if entry["label"] == bar.against)
        if bar.measure == "memory":
            value = entry["memory_ratio"]
        else:
            speed = entry["cpu_ratio" if self.num_threads == 1 else "wall_ratio"][0]
            value = speed if bar.measure == "speed" else 1 / speed
        return {"bar": str(bar), "against": bar.against, "value": value, "reached": bar.reached(value)}


def _rates(runner: Runner, work: str, clock: str) -> list[float]:
    return [done["facts"][work] / done[clock] for done in runner.repetitions[1:]]


def _ratios(first: Runner, other: Runner, work: str, clock: str) -> Spread:
    pairs = zip(_rates(first, work, clock), _rates(other, work, clock), strict=True)
    return spread([ours / theirs for ours, theirs in pairs])


def unequal(row: Row, runners: Sequence[Runner]) -> list[str]:
    """What was not the same work: empty if all is well."""
    found = []
    for fact in row.equal:
        sums = {
            runner.label: sum(done["facts"][fact] for done in runner.repetitions)
            for runner in runners
            if fact in runner.repetitions[0]["facts"]
        }
        if len(set(sums.values())) > 1:
            found.append(f"{fact} must be equal, got {sums}")
    for fact, tolerance in row.close.items():
        values = {
            runner.label: runner.repetitions[0]["facts"][fact]
            for runner in runners
            if fact in runner.repetitions[0]["facts"]
        }
        lowest, highest = min(values.values(), default=0.0), max(values.values(), default=0.0)
        if not math.isclose(lowest, highest, rel_tol=tolerance):
            found.append(f"{fact} must agree to {tolerance:g}, got {values}")
    return found


def environments_of(rows: Sequence[Row]) -> set[str]:
    """What the contestants of these rows run in."""
    contestants: list[Contestant] = [contestant for row in rows for contestant in row.contestants]
    return {contestant.environment for contestant in contestants}
