"""A payload that shows whether it ran: a file that must not appear."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.models import save_language_model


class Payload:
    """What an attacker would have run, in the forms in which files carry it.

    Args:
        folder: where the mark appears when one of them runs.
    """

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "the payload ran"

    def __reduce__(self):
        return (Path.touch, (self.mark,))

    @property
    def command(self) -> str:
        return f"touch '{self.mark}'"

    @property
    def source(self) -> str:
        """Of a module that runs it as soon as it is imported, and has whatever name one looks for."""
        return (
            f"import pathlib\npathlib.Path({str(self.mark)!r}).touch()\n"
            "def __getattr__(name):\n    return type(name, (), {})\n"
        )

    @property
    def ran(self) -> bool:
        return self.mark.exists()


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """A payload; the test fails if it has run when the test is over."""
    made = Payload(tmp_path)
    yield made
    assert not made.ran, "code from an untrusted file was executed"


@pytest.fixture
def evil_module(payload: Payload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module that can be imported and runs the payload; beside the config, say, or in a model's directory."""
    folder = tmp_path / "importable"
    folder.mkdir()
    (folder / "evil_module.py").write_text(payload.source)
    monkeypatch.syspath_prepend(str(folder))
    yield "evil_module"
    sys.modules.pop("evil_module", None)


@pytest.fixture(scope="session")
def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The built-in model and its tokenizer."""
    return TinyModel(hidden_size=16, num_layers=1, num_heads=2).load()


@pytest.fixture(scope="session")
def saved_model(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harmless model directory."""
    path = tmp_path_factory.mktemp("saved") / "model"
    save_language_model(*tiny, path, None)
    return path


@pytest.fixture
def model_directory(saved_model: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(saved_model, tmp_path / "downloaded"))


@pytest.fixture
def change_json() -> Callable[..., None]:
    """`change_json(path, **settings)`: settings put into a JSON file."""

    def change(path: Path, **settings: object) -> None:
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**found, **settings}))

    return change
