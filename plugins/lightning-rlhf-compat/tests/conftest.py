"""One thread, no network, and functions in files as their libraries' users have them."""

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# before torch and the Hugging Face libraries are imported, which read these once
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a function's file into the working directory and gives the path of the function."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def written(source: str, name: str = "reward", file: str = "rewards.py") -> str:
        (tmp_path / file).write_text(textwrap.dedent(source), encoding="utf-8")
        return f"{file}:{name}"

    yield written
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a tokenizer over bytes."""
    from lightning_rlhf.testing import byte_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return str(folder)
