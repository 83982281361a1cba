"""What every test needs: one thread, no network, repeatable random examples, and shapes that are checked."""

import gc
import importlib
import importlib.metadata
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jsonargparse import _typehints

from lightning_rlhf import registry
from lightning_rlhf.plugin_system.manager import Manager, plugin_manager

# before torch and the Hugging Face libraries are imported, which read these once
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

torch.set_num_threads(1)

# before the package is imported; only these two, because the hook rejects Protocols. The numeric tower lets an int pass
# for a float, as it does for every type checker.
install_import_hook(
    ["lightning_rlhf.functional", "lightning_rlhf.batches"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# the same examples on every machine, none kept on disk, and no failure because a machine was busy
settings.register_profile("tests", database=None, deadline=None, derandomize=True, max_examples=30)
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """What all tests import lives as long as they run: a collection that walks through it takes two seconds."""
    gc.collect()
    gc.freeze()


class Deaths:
    """Ends the program at its file operations, one after the other: `for step in deaths: … deaths.at(step, action)`.

    A process that is dead changes no file any more: from that step on every operation fails, those of `finally` too.
    """

    _EVENTS = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate")

    class Dead(BaseException):
        """Nothing catches it."""

    def __init__(self) -> None:
        self._left: int | None = None
        sys.addaudithook(self._on_event)  # there is no way to take it off again

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, 200))

    def at(self, step: int, action: Callable[[], object]) -> bool:
        """Whether the action died at that operation; False: it has fewer."""
        self._left = step
        try:
            action()
        except self.Dead:
            return True
        finally:
            self._left = None
        return False

    def _on_event(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._left is None or event not in self._EVENTS:
            return
        if event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
            return
        self._left -= 1
        if self._left <= 0:
            raise self.Dead


_deaths = Deaths()


@pytest.fixture
def deaths() -> Deaths:
    """What kills the program at any of its file operations."""
    return _deaths


@pytest.fixture(scope="module")
def collected_afterwards() -> Iterator[None]:
    """A class is known to its base until it is collected, and parsers of other tests must not meet a fake one."""
    yield
    gc.collect()


@pytest.fixture
def fake_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected_afterwards: None
) -> Iterator["FakePlugins"]:
    """Plug-ins as pip would leave them, in a folder on the import path; no other plug-in of this machine is let in."""
    plugins = FakePlugins(tmp_path / "site-packages", monkeypatch)
    yield plugins
    plugins.forget()


class FakePlugins:
    """Writes distributions and asks the library about them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._names: list[str] = []
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("LIGHTNING_RLHF_LOAD_PLUGINS", "")
        self.forget()

    def install(
        self,
        name: str,
        source: str,
        *,
        version: str = "1.0",
        requires: tuple[str, ...] = (),
        entry_points: str | None = None,
        **modules: str,
    ) -> None:
        """Write a distribution.

        Args:
            name: of the distribution; its plug-in module has the same, with underscores.
            source: of the plug-in module.
            version: of the distribution.
            requires: its `Requires-Dist` lines.
            entry_points: the text of `entry_points.txt`; None: one entry, for the plug-in module.
            **modules: source by name of further modules.
        """
        module = name.replace("-", "_")
        for module_name, text in {module: source, **modules}.items():
            (self.folder / f"{module_name}.py").write_text(textwrap.dedent(text))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(entry_points or f"[lightning_rlhf]\n{module} = {module}\n")
        self._names.append(name)
        self._monkeypatch.setenv("LIGHTNING_RLHF_LOAD_PLUGINS", ",".join(self._names))
        importlib.invalidate_caches()

    def manager(self, **environ: str) -> Manager:
        """A manager that sees these plug-ins only, under the given environment variables only."""
        return Manager(importlib.metadata.distributions(path=[str(self.folder)]), environ)

    def python(self, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run code in a fresh process that has these plug-ins."""
        path = os.pathsep.join([str(self.folder), *sys.path])
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": path, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def forget(self) -> None:
        """Drop what this process knows of plug-ins, published classes included."""
        plugin_manager.cache_clear()
        registry._published.cache_clear()
        getattr(_typehints, "_cached_class_parsers", {}).clear()  # jsonargparse's parsers hold the classes they are for
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
