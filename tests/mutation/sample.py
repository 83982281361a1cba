"""How many small mistakes the plain tests notice: a random sample of mutants of the package, and what became of each.

    python tests/mutation/sample.py --record                     # the plain suite, once; again when much has changed
    python tests/mutation/sample.py --seed 1 --number 150 --jobs 2

A mutant is the package with one small change: a comparison turned round, a number one off, a statement gone, two
arguments swapped (mutants.py has them all). It is killed when a plain test fails, and has survived when all tests that
run its line pass: those of the file that mirrors the changed one, then the others, the shortest files first. The tree
itself is never touched. Results are appended to a file, and a second call goes on where the first was broken off.

Mutants that nobody could see stand in equivalent.toml, each with its reason, and count nowhere.

Needs the extra `dev` and Linux.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutants import Mutant, differs, mutants_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "lightning_rlhf"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
FIRST_ROUND_S = 45.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Records, or draws a sample, runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the sample; default: 0")
    parser.add_argument("--number", type=int, default=150, help="of mutants; a larger sample begins with a smaller one")
    parser.add_argument("--only", metavar="PACKAGE", help="a package or file below lightning_rlhf, such as data")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time; each takes a core and a gigabyte")
    parser.add_argument("--limit", type=float, default=900, help="seconds for the tests of one mutant; default: 900")
    parser.add_argument("--folder", type=Path, default=_default_folder(), help="for recording, copies and results")
    parser.add_argument("--results", type=Path, help="file of results; default: one per seed, in the folder")
    parser.add_argument(
        "--record", action="store_true", help="run the plain suite and record which test runs which line"
    )
    parser.add_argument("--list", action="store_true", help="print the sample and run nothing")
    chosen = parser.parse_args(arguments)
    recording = chosen.folder / "recording"
    if chosen.record:
        return record(recording, chosen.jobs)
    sample = drawn(chosen.seed, chosen.number, chosen.only)
    if chosen.list:
        for mutant in sample:
            print(f"{mutant.path}:{mutant.line} {mutant.operator}\n{mutant.diff((ROOT / mutant.path).read_bytes())}")
        return 0
    if not (recording / "combined").is_file():
        parser.error(f"there must be a recording in {recording}, got none. Call it with --record first.")
    results = chosen.results or chosen.folder / f"seed-{chosen.seed}.jsonl"
    run(sample, results, recording, chosen.folder, chosen.jobs, chosen.limit)
    print(report(sample, results))
    return 0


def drawn(seed: int, number: int, only: str | None = None) -> list[Mutant]:
    """A sample, at most one mutant of a line."""
    below = ROOT / PACKAGE / (only or "")
    files = sorted(below.rglob("*.py")) if below.is_dir() else [below.with_suffix(".py")]
    everything = [mutant for file in files for mutant in mutants_of(ROOT, file)]
    random.Random(seed).shuffle(everything)
    sample: dict[tuple[str, int], Mutant] = {}
    for mutant in everything:
        if len(sample) == number:
            break
        place = mutant.path, mutant.line
        if place not in sample and differs(mutant, (ROOT / mutant.path).read_bytes()):
            sample[place] = mutant
    return list(sample.values())


def record(folder: Path, jobs: int) -> int:
    """Runs the plain suite on a copy of the tree and keeps what it did."""
    import recording
    from running import copy_tree

    shutil.rmtree(folder, ignore_errors=True)
    tree = folder / "source"
    copy_tree(ROOT, tree)
    (folder / "coverage.ini").write_text(recording.CONFIG.format(folder=folder), encoding="utf-8")
    environment = {
        **os.environ,
        recording.FOLDER: str(folder),
        recording.CONTEXT: "",
        "PYTHONPATH": os.pathsep.join([str(tree), str(Path(__file__).parent)]),
    }
    words = [sys.executable, "-m", "pytest", "-q", "-p", "recording", "-n", str(jobs), "--timeout", "900"]
    code = subprocess.run(words, cwd=tree, env=environment, check=False).returncode
    words = [sys.executable, "-m", "coverage", "combine", "-q", "--data-file", str(folder / "combined")]
    subprocess.run([*words, *map(str, folder.glob("coverage.*.*"))], cwd=tree, check=True)
    return code


def run(sample: Sequence[Mutant], results: Path, recorded: Path, folder: Path, jobs: int, limit_s: float) -> None:
    """Runs what has no result yet."""
    from running import Place, load_heavy
    from selection import Recording

    done = _results(results)
    sources = {mutant.path: (ROOT / mutant.path).read_bytes() for mutant in sample}
    left = [mutant for mutant in sample if mutant.key(sources[mutant.path]) not in done]
    if not left:
        return
    recording = Recording(recorded, ROOT)
    load_heavy()
    places = [Place(ROOT, folder / f"place-{number}") for number in range(min(jobs, len(left)))]
    free, running = [*places], {}
    with results.open("a", encoding="utf-8") as lines:
        while left or running:
            while left and free:
                mutant, place = left.pop(0), free.pop()
                plan = recording.plan(mutant.path, mutant.line, FIRST_ROUND_S)
                running[place.start(mutant, plan, limit_s)] = mutant, place, time.monotonic()
            process, _ = os.wait()
            mutant, place, begun = running.pop(process)
            found = place.verdict() | {"seconds": round(time.monotonic() - begun, 1)}
            free.append(place)
            source = sources[mutant.path]
            named = {"key": mutant.key(source), "place": f"{mutant.path}:{mutant.line}", "operator": mutant.operator}
            lines.write(json.dumps(named | found | {"diff": mutant.diff(source)}) + "\n")
            lines.flush()
            print(
                f"{found['status']:10} {named['place']} {mutant.operator} ({found['seconds']} s) {found['by']}",
                flush=True,
            )


def report(sample: Sequence[Mutant], results: Path) -> str:
    """The table by package, and every mutant that was not killed."""
    done = _results(results)
    reasons = _equivalent()
    counts: dict[str, Counter[str]] = {}
    left, excused = [], []
    for mutant in sample:
        source = (ROOT / mutant.path).read_bytes()
        found = done.get(mutant.key(source))
        if found is None:
            continue
        status, diff = found["status"], mutant.diff(source)
        if status != "killed" and (mutant.path, diff) in reasons:
            status = "equivalent"
            excused.append(f"{mutant.path}:{mutant.line} {mutant.operator}\n{diff}\n  {reasons[mutant.path, diff]}")
        elif status != "killed":
            left.append(f"{mutant.path}:{mutant.line} {mutant.operator}, {status} {found['tests']} tests\n{diff}")
        counts.setdefault(_package(mutant.path), Counter())[status] += 1
    rows = ["| package | mutants | killed | survived | share |", "|---|---:|---:|---:|---:|"]
    counts = dict(sorted(counts.items()))
    for name, of_package in {**counts, "all": sum(counts.values(), Counter())}.items():
        killed, survived = of_package["killed"], of_package["survived"] + of_package["unfinished"]
        share = f"{killed / (killed + survived):.0%}" if killed + survived else ""
        rows.append(f"| {name} | {killed + survived} | {killed} | {survived} | {share} |")
    parts = ["\n".join(rows)]
    parts += ["Left out as equivalent:\n\n" + "\n\n".join(excused)] * bool(excused)
    parts += ["Not killed:\n\n" + "\n\n".join(left)] * bool(left)
    return "\n\n".join(parts)


def _package(path: str) -> str:
    inner = Path(path).relative_to(PACKAGE)
    return inner.parts[0] if len(inner.parts) > 1 else "(top)"


def _results(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        return {}
    return {found["key"]: found for found in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def _equivalent() -> dict[tuple[str, str], str]:
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(entry["path"], entry["diff"].strip("\n")): entry["reason"] for entry in entries}


def _default_folder() -> Path:
    return Path(tempfile.gettempdir()) / "lightning-rlhf-mutation"


if __name__ == "__main__":
    sys.exit(main())
