"""The README's files and commands."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^Write `([\w.]+)`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^lightning-rlhf (.+)$", TEXT, re.MULTILINE)
SNIPPET, PRINTED = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL).groups()


def write_files(folder):
    """Lay out what the README says to write."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")


def run(command):
    """A command of the README, in this process, on the CPU."""
    from lightning_rlhf.cli.main import main

    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    assert main([*command.split(), *quiet]) == 0
