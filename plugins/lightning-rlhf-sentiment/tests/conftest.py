"""What the tests share: one thread, no network, and libraries that are missing or broken."""

import os
import sys

import pytest

# before torch and the Hugging Face libraries are imported, which read these once
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def forgotten(monkeypatch):
    """`forgotten(package)`: what was imported of it is imported anew, until the test ends."""

    def forget(package):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    return forget


@pytest.fixture
def hidden(forgotten, monkeypatch):
    """`hidden(package)`: from then on the package cannot be imported."""

    def hide(package):
        forgotten(package)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


@pytest.fixture
def broken(forgotten, tmp_path, monkeypatch):
    """`broken(package, source)`: from then on importing the package runs this source."""

    def replace(package, source):
        forgotten(package)
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))

    return replace
