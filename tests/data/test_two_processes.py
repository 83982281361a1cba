"""Two DDP ranks on the CPU, launched as the Trainer launches them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, json, sys
from pathlib import Path

import lightning as L

from lightning_rlhf.data import DemonstrationData
from lightning_rlhf.errors import BadRowError
from lightning_rlhf.records import Demonstration, Message

spec = importlib.util.spec_from_file_location("fakes", sys.argv[1])
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
records = [Demonstration((Message("user", "q" * (i + 1)), Message("assistant", "a" * i + "b"))) for i in range(11)]
bad = [BadRowError("rows must be good.", origin="rows.jsonl", line=12)] if sys.argv[3] == "bad" else []
source = fakes.ListSource([*records, *bad], records[:5])
module = fakes.TinyModule(fakes.byte_tokenizer())
trainer = L.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, max_epochs=1, accumulate_grad_batches=2, num_sanity_val_steps=0,
)
trainer.fit(module, datamodule=DemonstrationData(source, fakes.JoinedTemplate(), batch_size=2))
lengths = lambda batches: [batch.tokens.attention_mask.sum(-1).tolist() for batch in batches]
seen = {
    "train": lengths(module.seen),
    "targets": [int((batch.labels != -100).sum()) for batch in module.seen],
    "num_targets": [int(batch.num_targets) for batch in module.seen],
    "validation": lengths(module.heldout),
}
Path(sys.argv[2], f"{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


def run(tmp_path: Path, rows: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    fakes = Path(__file__).with_name("conftest.py")
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), str(fakes), str(tmp_path), rows]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_two_ranks_read_one_file_split_the_rows_and_agree_on_the_counts(tmp_path):
    done = run(tmp_path, "good")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    # rows are told apart by their length
    rows = [length for part in (first, second) for batch in part["train"] for length in batch]
    assert (len(rows), len(set(rows))) == (12, 11)
    assert first["num_targets"] == second["num_targets"]
    targets = [a + b for a, b in zip(first["targets"], second["targets"], strict=True)]
    assert first["num_targets"] == [targets[0] + targets[1]] * 2 + [targets[2]]
    held_out = [length for part in (first, second) for batch in part["validation"] for length in batch]
    assert sorted(held_out) == [3, 5, 7, 9, 11]
    assert len(first["validation"]) == len(second["validation"])
    assert list((tmp_path / "cache" / "lightning_rlhf").iterdir()) == []


@pytest.mark.slow
def test_a_bad_row_ends_both_ranks(tmp_path):
    done = run(tmp_path, "bad")
    assert done.returncode != 0
    assert "rows.jsonl:12: rows must be good." in done.stderr
