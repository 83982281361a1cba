"""What the tests of every layout need: files in it, and what a model would learn of them."""

import gzip
import json
import os
from itertools import groupby
from pathlib import Path

import pytest

# before torch and the Hugging Face libraries are imported, which read these once
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.records import Demonstration, Ranking
from lightning_rlhf.registry import create


@pytest.fixture
def write(tmp_path):
    """Writes a file: rows as its suffix says, or text as it is."""

    def write(name, rows):
        if not isinstance(rows, str):
            many = ".jsonl" in name
            rows = "".join(f"{json.dumps(row)}\n" for row in rows) if many else json.dumps(rows, indent=1)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = rows.encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return str(path)

    return write


@pytest.fixture
def load(write):
    """The records of rows in a layout."""

    def load(layout, rows, name="rows.jsonl", split="train", **init_args):
        return list(create("dataset", layout, path=write(name, rows), **init_args).load(split))

    return load


@pytest.fixture(scope="session")
def tokenizer():
    """Every byte is a token, so that decoding shows exactly what was encoded."""
    return TinyModel().load()[1]


@pytest.fixture(scope="session")
def learned(tokenizer):
    """What of a record is supervised, as the model's ids say it, in the order of the turns; `</s>` is the stop."""
    formatters = {}

    def learned(record, template="human_assistant"):
        formatter = formatters.get(template)
        if formatter is None:
            formatter = formatters[template] = PromptFormatter(create("prompt_template", template), tokenizer)
        if isinstance(record, Ranking):
            return [tokenizer.decode(formatter.encode_response(record.prompt, answer)) for answer in record.responses]
        assert isinstance(record, Demonstration), record
        ids, supervised = formatter.encode(record.messages)
        runs = groupby(zip(ids, supervised, strict=True), key=lambda pair: pair[1])
        return [tokenizer.decode([index for index, _ in run]) for is_learned, run in runs if is_learned]

    return learned


@pytest.fixture(scope="session")
def real():
    """The folder of real rows."""
    folder = os.environ.get("LIGHTNING_RLHF_REAL_DATA")
    assert folder, "tests marked real need the environment variable LIGHTNING_RLHF_REAL_DATA"
    return Path(folder)


@pytest.fixture(scope="session")
def real_rows(real):
    """Reads a file of real rows as plainly as can be, so that what a component read can be held against it."""

    def read(name):
        raw = (real / name).read_bytes()
        text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8")
        return [json.loads(line) for line in text.split("\n") if line.strip()]

    return read
