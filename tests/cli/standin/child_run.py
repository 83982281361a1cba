"""Runs the command line in a process of its own, forked from one that has imported it all."""

import multiprocessing
import os
import sys
from pathlib import Path


def run(words: list[str], folder: str, log: str, environment: dict[str, str]) -> None:
    """Run in `folder`, writing what is printed to `log`, and end with the command's exit code."""
    multiprocessing.set_start_method("fork", force=True)  # for workers of loaders: as a command's process has it
    os.chdir(folder)
    os.environ.update(environment)
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.append(str(Path(__file__).parent))
    sys.argv = ["lightning-rlhf", *words]
    os.environ["PL_GLOBAL_SEED"] = "0"
    from lightning_rlhf.cli.main import main

    sys.exit(main())
