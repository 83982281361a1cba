"""The collapse that the documentation shows, through the command line."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_rlhf.callbacks.collapse_signs import Limits
from lightning_rlhf.callbacks.collapse_watch import CollapseWatch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")


def test_the_page_has_every_limit_with_its_default():
    watch = CollapseWatch()
    table = dict(re.findall(r"`(\w+): ([\d.]+)`", PAGE))
    for name in Limits.__dataclass_fields__:
        assert float(table[name]) == getattr(watch.limits, name), name
    assert f"`patience` iterations in a row ({watch.patience})" in PAGE


@pytest.mark.slow
def test_the_run_that_the_page_shows_exploits_its_reward_and_goes_back_to_its_best_policy(tmp_path):
    for name, text in re.findall(r"^Write `([\w.]+)`:\n\n```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    shown = re.findall(r"^lightning-rlhf (fit --config hack.yaml)$", PAGE, re.MULTILINE)
    finished = subprocess.run(
        [sys.executable, "-m", "lightning_rlhf", *shown[0].split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    said = " ".join(finished.stderr.split())
    assert "while the trained score went from" in said
    assert "The policy exploits what its reward gets wrong" in said
    assert re.search(r"the run ends after iteration \d+ because the policy collapses \(.*heldout/Readable", said)
    with (tmp_path / "hack" / "kl-scores.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) < 60
    assert float(rows[-1]["score"]) > 10 * float(rows[0]["score"])
    assert float(rows[-1]["heldout/Readable"]) < 0.75 * float(rows[0]["heldout/Readable"])
    assert (tmp_path / "hack" / "kl-scores.svg").is_file()
    model, best = ((tmp_path / "hack" / folder / "model.safetensors") for folder in ("model", "checkpoints/best"))
    assert model.read_bytes() == best.read_bytes()
