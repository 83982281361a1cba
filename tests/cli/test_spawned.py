"""Strategies whose processes are children of this one: a run ends as elsewhere, and is known to have begun."""

from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_rlhf.cli.spawned import _as_it_was
from lightning_rlhf.errors import BadRowError, DivergenceError, StorageError

FORKED = ["--trainer.strategy=ddp_fork", "--trainer.devices=1", "--trainer.default_root_dir=run"]

HEAD = "-- Process 0 terminated with the following error:\nTraceback (most recent call last):\n  File x.py, line 1\n"


@pytest.mark.parametrize(
    ("last", "kind", "message"),
    [
        (
            "lightning_rlhf.errors.BadRowError: rows.jsonl:3: a row must have a prompt.\nMend it.",
            BadRowError,
            "rows.jso",
        ),
        ("lightning_rlhf.errors.DivergenceError: the loss must be finite.", DivergenceError, "the loss must"),
        ("lightning.pytorch.utilities.exceptions.SIGTERMException", SIGTERMException, ""),
        ("OSError: [Errno 28] No space left on device", StorageError, "No space left"),
    ],
)
def test_what_ended_a_child_is_raised_as_what_it_was(last, kind, message):
    error = _as_it_was(f"{HEAD}{last}\n")
    assert type(error) is kind
    assert message in str(error)


@pytest.mark.parametrize("last", ["ZeroDivisionError: division by zero", "mine.errors.BadRowError: x", "OSError: odd"])
def test_a_bug_in_a_child_keeps_its_traceback(last):
    assert _as_it_was(f"{HEAD}{last}\n") is None


def contents(root):
    return {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def test_a_run_in_forked_processes_is_kept_replaced_and_refused_as_any_other(command, capfd):
    assert command("fit", *FORKED) == 0
    assert "the run is in run\n" in capfd.readouterr().out
    first = contents("run")
    assert Path("run/checkpoints/last.ckpt") in first
    assert command("fit", *FORKED, "--overwrite", "--model.fails=in training") == 2
    assert "error: rows.jsonl:3: a row must have a prompt." in capfd.readouterr().err
    assert contents("run") == first
    assert command("fit", *FORKED, "--overwrite", "--trainer.max_epochs=0") == 0
    assert "nothing was trained" in capfd.readouterr().out
    assert contents("run") == first
    assert command("fit", *FORKED, "--overwrite", "--model.slope=0.25") == 0
    assert contents("run").keys() >= {path for path in first if "tensorboard" not in path.parts}
    assert "slope: 0.25" in Path("run/config.yaml").read_text()
