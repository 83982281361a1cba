"""A place to run commands in: an empty working directory and a stage that trains in a moment."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

STANDIN = Path(__file__).parent / "standin"

Command = Callable[..., int | None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The console script in an empty directory, in this process, with the stand-in's classes."""
    from lightning_rlhf.cli import lightning_cli
    from lightning_rlhf.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(STANDIN)])
    monkeypatch.setattr(sys, "argv", ["lightning-rlhf"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    import cli_standin

    monkeypatch.setattr(lightning_cli, "base_classes", lambda: (cli_standin.StandInBase, cli_standin.StandInData))
    given = ["--model=StandInStage", "--data=StandInData", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    given += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]

    def call(name: str, *words: str, bare: bool = False) -> int | None:
        return main([name, *words] if bare else [name, *given, *words])

    return call
