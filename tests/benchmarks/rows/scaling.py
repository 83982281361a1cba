"""How time and memory grow: PPO with episodes and response length, supervised fine-tuning with the rows of a file.

Each size has a process of its own, and the sizes take turns. What decides is the exponent, the slope of the logarithm
of CPU seconds over the logarithm of the size: 1 is linear. It is fitted over the three largest sizes, where what a run
spends once, which would flatter it, counts least.

- `scaling-episodes`, `scaling-responses`: one repetition is one iteration of PPO with 2 epochs on a GPT-2 of 2 layers
  x 64; no response stops early. Memory is what a process rose by after loading, and must not grow faster either.
- `scaling-rows`: one repetition reads a file of demonstrations, holds out a hundredth of them by the hash of the
  prompt, tokenizes both splits to disk and trains 8 steps. Memory must be flat: the peak of the process, which lies
  some bytes per row (its place in the epoch's order, its counts) above that for a short file.
- `scaling-rows-full`: the same up to a million rows, once. It takes a quarter of an hour, and runs where it is named.
"""

import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ppo_material
import scaling_material
from contest import Runner

from rows import Row

_LINEAR = 1.1
"""An exponent that a straight line may have in a noisy measurement."""
_FLAT = 1.15
"""Peak memory of the process with most rows over that of the one with fewest."""
_FITTED = 3
_MEGABYTE = 2**20
_WARM_UP = 100

TINY = {"layers": 2, "hidden": 64, "heads": 2, "positions": 512}
PPO = {
    **TINY,
    "architecture": "gpt2",
    "vocabulary": 1024,
    "num_epochs": 2,
    "kl_coef": 0.05,
    "learning_rate": 1e-6,
    "rank": 0,
    "precision": "32-true",
    "rows": 512,
    "minibatch_size": 16,
    "prompt_tokens": [32, 32],
    "stop_probability": 0.0,
}
EPISODES = {**PPO, "response_tokens": 32, "grown": "episodes", "sizes": [32, 64, 128, 256, 512]}
RESPONSES = {**PPO, "episodes": 64, "grown": "response_tokens", "sizes": [16, 32, 64, 128, 256]}
FILE = {
    **TINY,
    "vocabulary": 4096,
    "prompt_words": [4, 24],
    "response_words": [4, 16],
    "val_fraction": 0.01,
    "steps": 8,
    "grown": "rows",
    "sizes": [1_000, 10_000, 100_000],
}
LONG_FILE = {**FILE, "sizes": [*FILE["sizes"], 1_000_000]}

Measured = tuple[list[str], dict[str, Any]]


def measure_ppo(row: Row, num_threads: int, repeats: int) -> Measured:
    """Iterations of PPO."""

    def prepare(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        return {**ppo_material.write_models(spec, folder), **ppo_material.write_prompts(spec, folder)}

    sizes = _sweep(row, num_threads, repeats, "ours_ppo", prepare, warm_up=True)
    risen = [size["risen_memory"] for size in sizes]
    bars = [_bar(f"memory's exponent <= {_LINEAR:g}", _exponent(row.spec["sizes"], risen), _LINEAR)]
    return _report(row, num_threads, sizes, bars)


def measure_rows(row: Row, num_threads: int, repeats: int) -> Measured:
    """Fine-tuning on files."""

    def prepare(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        return {
            "model": scaling_material.write_model(spec, folder / "model"),
            "warm_up": scaling_material.write_demonstrations(spec, folder / "warm_up.jsonl", _WARM_UP),
            "data": scaling_material.write_demonstrations(spec, folder / "rows.jsonl", spec["rows"]),
        }

    sizes = _sweep(row, num_threads, repeats, "ours_streaming", prepare, warm_up=False)
    growth = sizes[-1]["peak_memory"] / sizes[0]["peak_memory"]
    return _report(row, num_threads, sizes, [_bar(f"peak memory, last over first <= {_FLAT:g}", growth, _FLAT)])


def _sweep(
    row: Row,
    num_threads: int,
    repeats: int,
    contestant: str,
    prepare: Callable[[Mapping[str, Any], Path], dict[str, Any]],
    *,
    warm_up: bool,
) -> list[dict[str, Any]]:
    """What was measured at each size, in turns."""
    grown, sizes = row.spec["grown"], row.spec["sizes"]
    with tempfile.TemporaryDirectory(prefix="benchmark-scaling-") as name:
        runners: list[Runner] = []
        try:
            for size in sizes:
                folder = Path(name) / str(size)
                folder.mkdir()
                spec = {**row.spec, grown: size}
                spec |= prepare(spec, folder)
                runners.append(Runner(f"{grown} {size}", contestant, Path(sys.executable), spec, num_threads, folder))
                runners[-1].start()
            for _ in range(repeats + warm_up):
                for runner in runners:
                    runner.repeat()
        finally:
            for runner in runners:
                runner.stop()
    return [_size(size, runner, runner.repetitions[warm_up:]) for size, runner in zip(sizes, runners, strict=True)]


def _size(size: int, runner: Runner, repetitions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    peak = repetitions[-1]["peak"]
    return {
        "size": size,
        "cpu_s": statistics.median(repetition["cpu_s"] for repetition in repetitions),
        "peak_memory": peak,
        "risen_memory": peak - runner.ready["memory"],
        "repetitions": list(repetitions),
    }


def _report(row: Row, num_threads: int, sizes: Sequence[Mapping[str, Any]], bars: list[dict[str, Any]]) -> Measured:
    exponent = _exponent(row.spec["sizes"], [size["cpu_s"] for size in sizes])
    lines = [f"{row.name}: {row.title}, {num_threads} thread(s)"]
    for size in sizes:
        each = f"{1000 * size['cpu_s'] / size['size']:.4g} ms each"
        memory = f"{size['peak_memory'] / _MEGABYTE:.0f} MB ({size['risen_memory'] / _MEGABYTE:+.0f} after loading)"
        parts = _parts(size["repetitions"])
        lines.append(f"    {row.spec['grown']} {size['size']:<9} {size['cpu_s']:.4g} CPU s, {each}, {memory}{parts}")
    bars = [_bar(f"time's exponent <= {_LINEAR:g}", exponent, _LINEAR), *bars]
    lines += [f"    {bar['bar']}: {bar['value']:.3f}" for bar in bars]
    return lines, {"bars": bars, "sizes": list(sizes)}


def _parts(repetitions: Sequence[Mapping[str, Any]]) -> str:
    """The seconds that a contestant reports of parts of its work."""
    names = [name for name in repetitions[0]["facts"] if name.endswith("_s")]
    medians = {name: statistics.median(repetition["facts"][name] for repetition in repetitions) for name in names}
    return "".join(f", {name.removesuffix('_s')} {seconds:.3g} s" for name, seconds in medians.items())


def _exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of log(value) over log(size) at the largest sizes."""
    points = [(math.log(size), math.log(max(value, 1e-9))) for size, value in zip(sizes, values, strict=True)]
    return statistics.linear_regression(*zip(*points[-_FITTED:], strict=True)).slope


def _bar(name: str, value: float, at_most: float) -> dict[str, Any]:
    return {"bar": name, "value": value, "reached": value <= at_most}


ROWS = [
    Row(
        name="scaling-episodes",
        title="CPU seconds of a PPO iteration against 32-512 episodes, GPT-2 2 x 64, 32 + 32 tokens",
        spec=EPISODES,
        measure=measure_ppo,
        repeats=3,
        threads=(1,),
    ),
    Row(
        name="scaling-responses",
        title="CPU seconds of a PPO iteration against responses of 16-256 tokens, GPT-2 2 x 64, 64 episodes",
        spec=RESPONSES,
        measure=measure_ppo,
        repeats=3,
        threads=(1,),
    ),
    Row(
        name="scaling-rows",
        title="CPU seconds of SFT against 1e3-1e5 rows that stream from disk, GPT-2 2 x 64, 8 steps",
        spec=FILE,
        measure=measure_rows,
        repeats=2,
        threads=(1,),
    ),
    Row(
        name="scaling-rows-full",
        title="the same up to 1e6 rows",
        spec=LONG_FILE,
        measure=measure_rows,
        repeats=1,
        threads=(1,),
        only_when_named=True,
    ),
]
