"""Real rows and a real model, from the folder that LIGHTNING_RLHF_REAL_DATA names, driven by the shipped configs."""

import csv
import gzip
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parent))  # for `review_measures`


class Run(NamedTuple):
    """What a finished run left behind and said."""

    root: Path
    metrics: list[dict[str, float]]
    """The logged rows, each with the metrics that it has."""
    report: str

    def logged(self, name: str) -> list[float]:
        """A metric over the steps."""
        return [row[name] for row in self.metrics if name in row]

    def assert_learned(self) -> None:
        """The training loss is finite throughout and clearly lower at the end."""
        losses = self.logged("train/loss")
        assert all(math.isfinite(loss) for loss in losses)
        assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real rows."""
    folder = os.environ.get("LIGHTNING_RLHF_REAL_DATA")
    assert folder, "tests marked real need the environment variable LIGHTNING_RLHF_REAL_DATA"
    return Path(folder)


@pytest.fixture(scope="session")
def base(data: Path) -> str:
    """The directory of the real model."""
    return str(data / "models/stories260k")


@pytest.fixture(scope="session")
def rows(data: Path) -> Callable[[str], list[Any]]:
    """Reads a file as plainly as can be, so that what the library read can be held against it."""

    def read(name: str) -> list[Any]:
        raw = (data / name).read_bytes()
        text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8")
        return [json.loads(line) for line in text.split("\n") if line.strip()]

    return read


@pytest.fixture(autouse=True)
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped configs, whose components can be imported; an empty working directory; the seed put back later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # as the working directory is for a user
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return ROOT / "configs"


@pytest.fixture
def command() -> Callable[..., int | None]:
    """The command line in this process, options by name."""
    from lightning_rlhf.cli.main import main

    quiet = {"trainer.enable_progress_bar": "false", "trainer.enable_model_summary": "false"}

    def run(*words: str, **options: Any) -> int | None:
        return main([*words, *(f"--{name}={value}" for name, value in (options | quiet).items())])

    return run


@pytest.fixture
def fit(
    command: Callable[..., int | None], base: str, configs: Path, caplog: pytest.LogCaptureFixture
) -> Callable[..., Run]:
    """`lightning-rlhf fit` with a shipped config, or with options alone, that ends well."""

    def run(config: str = "", **options: Any) -> Run:
        root = Path("run")
        words = ["--config", str(configs / config)] if config else []
        logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        logger.addHandler(caplog.handler)
        try:
            status = command("fit", *words, **options | {"model.base": base, "trainer.default_root_dir": root})
        finally:
            logger.removeHandler(caplog.handler)
        assert status == 0
        with (root / "metrics.csv").open(newline="") as lines:
            metrics = [{n: float(v) for n, v in row.items() if v} for row in csv.DictReader(lines)]
        return Run(root, metrics, caplog.text)

    return run


@pytest.fixture
def few_steps() -> dict[str, Any]:
    """Options of a short run: the same batch again and again, so that what it learns shows; the whole file is read."""
    return {
        "trainer.overfit_batches": 1,
        "trainer.max_steps": 4,
        "model.warmup_steps": 0,
        "data.max_length": 128,
        "data.source.val_fraction": 0,
    }
