"""CPU seconds (user and system, of the whole process) until a command has answered, beyond what it cannot do without.

The commands take turns with the processes that they are held against. `plugins list` and `--help` are held against a
Python that does nothing. `fit --help` has to describe classes of Lightning and of this library, so it is held against a
process that imports `lightning.pytorch` and `transformers` and does nothing; transformers imports most of itself only
when a name of it is first used, so that process has loaded torch and Lightning and not one model class.

The bars are on the best of the rounds: whatever else a shared machine does only adds to the seconds of a process. The
medians are printed beside them. Number of threads: no command computes anything.
"""

import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from rows import Row

_PROGRAM = str(Path(sysconfig.get_path("scripts")) / "lightning-rlhf")
_NOTHING = "python -c pass"
_FRAMEWORKS = "import lightning.pytorch, transformers"

COMMANDS = {
    _NOTHING: [sys.executable, "-c", "pass"],
    "import lightning_rlhf": [sys.executable, "-c", "import lightning_rlhf"],
    "plugins list": [_PROGRAM, "plugins", "list"],
    "--help": [_PROGRAM, "--help"],
    _FRAMEWORKS: [sys.executable, "-c", _FRAMEWORKS],
    "fit --help": [_PROGRAM, "fit", "--help"],
    "fit --model.help PPOModule": [_PROGRAM, "fit", "--model.help", "PPOModule"],
}
AGAINST = {
    "import lightning_rlhf": (_NOTHING, None),
    "plugins list": (_NOTHING, 0.4),
    "--help": (_NOTHING, 0.4),
    "fit --help": (_FRAMEWORKS, 1.5),
    "fit --model.help PPOModule": (_FRAMEWORKS, None),
}
"""What each command is held against, and the CPU seconds that it may take beyond it."""


def measure(row: Row, num_threads: int, repeats: int) -> tuple[list[str], dict[str, Any]]:
    """Best and median CPU seconds of every command."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="benchmark-start-") as folder:
        for command in COMMANDS.values():  # their files are compiled and in memory from here on
            _cpu_seconds(command, num_threads, folder)
        for _ in range(repeats):
            for name, command in COMMANDS.items():
                seconds[name].append(_cpu_seconds(command, num_threads, folder))
    lines = [f"{row.name}: {row.title}, {num_threads} thread(s)"]
    bars, commands = [], {}
    for name, found in seconds.items():
        best, median = min(found), statistics.median(found)
        commands[name] = {"best_s": best, "median_s": median, "cpu_s": found}
        line = f"    {name:40} best {best:.3f} s, median {median:.3f} s"
        if name in AGAINST:
            other, limit = AGAINST[name]
            over = best - min(seconds[other])
            commands[name] |= {"against": other, "best_over_s": over}
            line += f"; {over:+.3f} s over `{other}`"
            if limit is not None:
                bars.append({"bar": f"{name} <= {limit:g} s over `{other}`", "value": over, "reached": over <= limit})
        lines.append(line)
    return lines, {"bars": bars, "commands": commands}


def _cpu_seconds(command: list[str], num_threads: int, folder: str) -> float:
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=surroundings, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


ROWS = [
    Row(
        name="start",
        title="CPU seconds until `plugins list`, `--help` and `fit --help` have answered",
        measure=measure,
        threads=(1,),
    )
]
