"""The table of rows: what is measured, who takes part, and what is to be reached."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

OURS = "ours"
"""The environment that the benchmark itself runs in."""

Measure = Literal["speed", "time", "memory"]
"""Work per second, seconds, or peak memory of the process; each as a ratio, the first contestant's over the other's."""


@dataclass(frozen=True)
class Contestant:
    """Who does the work.

    Args:
        label: its name in the table.
        module: its file in `contestants/`.
        environment: `ours`, or the name of a file in `peers/`.
        settings: what it alone is given beside the row's spec: for a second entry of the same file.
    """

    label: str
    module: str
    environment: str = OURS
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """What the row's first contestant must reach against another.

    Args:
        measure: what is compared.
        against: the other's label.
        at_least: smallest ratio that reaches it.
        at_most: greatest ratio that reaches it.
    """

    measure: Measure
    against: str
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)

    def __str__(self) -> str:
        limits = [f">= {self.at_least:g}" if self.at_least is not None else ""]
        limits += [f"<= {self.at_most:g}" if self.at_most is not None else ""]
        return f"{self.measure} {' '.join(filter(None, limits))}"


@dataclass(frozen=True)
class Row:
    """One line of the table: a work that several contestants do in turns.

    Args:
        name: what it is called on the command line.
        title: the work and its shape.
        spec: the shape as the contestants are told it.
        contestants: the first is compared with each other one.
        work: the fact of a repetition that counts the work (`supervised_tokens`, `comparisons`, `episodes`).
        bars: what is to be reached.
        prepare: writes models and data into a folder once, and returns what is added to the spec (paths as strings).
        equal: facts whose sum over all repetitions must be the same for all contestants that report them.
        close: facts of the first repetition that must agree, with the relative tolerance: equal weights, equal losses.
        repeats: rounds that are measured.
        threads: thread counts that it is measured with.
        measure: a row that is no contest gives its own measurement instead: called with row, number of threads and
            number of repeats, it returns lines to print and a dictionary for the JSON file, `{"bars": [{"bar",
            "value", "reached"}, …], …}`.
        only_when_named: too long to run with the others; its whole name asks for it.
    """

    name: str
    title: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    contestants: Sequence[Contestant] = ()
    work: str = ""
    bars: Sequence[Bar] = ()
    prepare: Callable[[Mapping[str, Any], Path], dict[str, Any]] | None = None
    equal: Sequence[str] = ()
    close: Mapping[str, float] = field(default_factory=dict)
    repeats: int = 5
    threads: Sequence[int] = (1, 2)
    measure: Callable[["Row", int, int], tuple[list[str], dict[str, Any]]] | None = None
    only_when_named: bool = False

    def with_layers(self, num_layers: int) -> "Row":
        """The same work with models of another depth.

        Args:
            num_layers: of each of its models.
        """
        if "layers" not in self.spec:
            raise SystemExit(f"--layers must be for rows with models of a set depth, got {self.name}.")
        title = f"{self.title}; depth {num_layers} instead"
        return replace(self, name=f"{self.name}@{num_layers}", title=title, spec={**self.spec, "layers": num_layers})


FILES = ("sft", "reward", "overhead", "bf16", "ppo", "start", "scaling")
"""Files of this folder; each has a list `ROWS`."""


def all_rows() -> Iterator[Row]:
    """Every row, in the order of the table."""
    for name in FILES:
        if (Path(__file__).parent / f"{name}.py").exists():
            yield from importlib.import_module(f"rows.{name}").ROWS
