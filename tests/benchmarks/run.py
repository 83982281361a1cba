"""The benchmark: `python tests/benchmarks/run.py [ROW ...]`. README.md says what it measures and how to read it."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest import Contest, environments_of
from environments import python_of, versions
from rows import Row, all_rows
from table import lines_of, table

_CPUINFO = Path("/proc/cpuinfo")
_QUICK_REPEATS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows that were asked for; 1 if work was unequal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names or beginnings of names; default: all")
    parser.add_argument("--threads", nargs="+", type=int, help="numbers of threads; default: each row's own, 1 and 2")
    parser.add_argument("--layers", nargs="+", type=int, help="depths of the models; default: each row's own")
    parser.add_argument("--repeats", type=int, help="measured rounds; default: each row's own")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_REPEATS} rounds")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--peers", type=Path, default=_default_peers(), help="folder of the peers' environments")
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    chosen = parser.parse_args(arguments)
    rows = _chosen(chosen.rows)
    if chosen.layers:
        rows = [row.with_layers(number) for row in rows for number in chosen.layers]
    if chosen.list:
        for row in rows:
            print(f"{row.name:24} {row.title}")
        return 0
    pythons = {name: python_of(name, chosen.peers) for name in sorted(environments_of(rows))}
    report: dict[str, Any] = {
        "machine": _machine(),
        "commit": _commit(),
        "versions": {name: versions(python) for name, python in pythons.items()},
        "results": [],
    }
    results: list[dict[str, Any]] = report["results"]
    for row in rows:
        repeats = chosen.repeats or (_QUICK_REPEATS if chosen.quick else row.repeats)
        with tempfile.TemporaryDirectory(prefix="benchmark-data-") as folder:
            prepared = row.prepare(row.spec, Path(folder)) if row.prepare else {}
            for num_threads in chosen.threads or row.threads:
                results.append(_measured(row, pythons, num_threads, repeats, prepared))
                if chosen.json:
                    chosen.json.write_text(json.dumps(report, indent=1))
    print(f"\n{report['machine']['cpu']}, {report['machine']['cores']} cores, commit {report['commit']}")
    for name, found in report["versions"].items():
        print(f"{name}: " + ", ".join(f"{package} {version}" for package, version in found.items()))
    print("speed, memory: the first contestant's over the other's; median (minimum-maximum) of the rounds.")
    print("CPU seconds decide with one thread, wall-clock seconds with more.\n")
    print(table(results))
    return int(any(result.get("unequal") for result in results))


def _measured(
    row: Row, pythons: dict[str, Path], num_threads: int, repeats: int, prepared: dict[str, Any]
) -> dict[str, Any]:
    started = time.perf_counter()
    if row.measure is None:
        result = Contest(row, pythons, num_threads, repeats).run(prepared)
        lines = lines_of(f"{row.name}: {row.title}", result)
    else:
        lines, measured = row.measure(row, num_threads, repeats)
        result = {"row": row.name, "threads": num_threads, "repeats": repeats, "bars": [], **measured}
    result["title"] = row.title
    result["took_s"] = time.perf_counter() - started
    print("\n".join(lines), f"    took {result['took_s']:.0f} s", sep="\n", flush=True)
    return result


def _chosen(names: Sequence[str]) -> list[Row]:
    rows = list(all_rows())
    if not names:
        return [row for row in rows if not row.only_when_named]
    for name in names:
        if not any(row.name.startswith(name) for row in rows):
            raise SystemExit(f"a row must be one of {', '.join(row.name for row in rows)}, got {name!r}.")
    return [row for row in rows if any(_asks_for(name, row) for name in names)]


def _asks_for(name: str, row: Row) -> bool:
    return row.name == name if row.only_when_named else row.name.startswith(name)


def _default_peers() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lightning_rlhf" / "benchmark_peers"


def _machine() -> dict[str, Any]:
    models = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "bf16_hardware": any(line.startswith("flags") and "avx512_bf16" in line for line in _cpu_lines()),
    }


def _cpu_lines() -> list[str]:
    return _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
