"""The process of one contestant: `worker.py CONTESTANT --spec JSON --threads N`, run by its own Python.

Only the protocol's lines go to standard output, one JSON object each; whatever libraries print goes to standard error.
Nothing of the project is imported here: peers have it not.
"""

import argparse
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


class Pace:
    """What a contestant reports to, and waits for, between repetitions."""

    def __init__(self, channel: int) -> None:
        self._channel = os.fdopen(channel, "w", buffering=1)
        self._started = (0.0, 0.0)

    def ready(self, **facts: Any) -> None:
        """Models and data are there."""
        self._say({"event": "ready", "facts": facts, "memory": _memory_now(), "peak": _peak_memory()})

    def wait(self) -> bool:
        """Blocks until the harness says go; False when it says stop."""
        going = sys.stdin.readline().strip() == "go"
        self._started = (time.perf_counter(), time.process_time())
        return going

    def done(self, **facts: Any) -> None:
        """Reports a repetition; the seconds since `wait` returned are added."""
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self._say({"event": "done", "wall_s": wall, "cpu_s": cpu, "peak": _peak_memory(), "facts": facts})

    def leave(self) -> None:
        """Ends the process where a trainer that owns the loop cannot be asked to stop without more work."""
        self._channel.close()
        sys.stderr.flush()
        os._exit(0)

    def next(self, **facts: Any) -> None:
        """`done`, then `wait`; the process ends when there is nothing more to do. For callbacks."""
        self.done(**facts)
        if not self.wait():
            self.leave()

    def _say(self, message: dict[str, Any]) -> None:
        self._channel.write(json.dumps(message) + "\n")
        self._channel.flush()


def _peak_memory() -> int:
    """Greatest resident memory of this process so far, in bytes."""
    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor


def _memory_now() -> int:
    """Resident memory, in bytes; the peak where the system does not tell."""
    if not _STATUS.exists():
        return _peak_memory()
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) * 1024


def main() -> None:
    """Runs one contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant")
    parser.add_argument("--spec", required=True, type=json.loads)
    parser.add_argument("--threads", required=True, type=int)
    arguments = parser.parse_args()
    channel = os.dup(1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    torch.set_num_threads(arguments.threads)
    importlib.import_module(f"contestants.{arguments.contestant}").run(arguments.spec, Pace(channel))


if __name__ == "__main__":
    main()
