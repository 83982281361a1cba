"""Which checkpoint `--ckpt_path` means, and why one cannot be used."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from traceback import walk_tb

from lightning_rlhf.checkpoints.run_directory import last_checkpoint
from lightning_rlhf.cli.explain import near
from lightning_rlhf.errors import ConfigError

__all__ = ["NO_FILE", "check_checkpoint", "refused_checkpoint"]

_LOADING = "checkpoint_connector"
"""The module of Lightning that loads checkpoints."""
NO_FILE = ("last", "hpc", "best")
"""What Lightning takes for a word and not for a path."""
_SHARDED = "meta.pt"
"""What a checkpoint of sharded weights holds, which is a folder."""


def check_checkpoint(ckpt_path: str | None, root: Path, *, is_fit: bool) -> None:
    """Look whether there is a checkpoint to load, before anything large is built.

    Args:
        ckpt_path: what the user gave.
        root: the run's root, in which `last` is looked for.
        is_fit: training may begin where there is no last checkpoint yet: a job that is started again says the same
            command each time.

    Raises:
        ConfigError: there is none, or something else.
    """
    if ckpt_path is None or "://" in str(ckpt_path):
        return
    if ckpt_path in ("last", "hpc"):
        if ckpt_path == "last" and not is_fit and last_checkpoint(root) is None:
            raise ConfigError(
                f"ckpt_path 'last' must find checkpoints/last.ckpt in trainer.default_root_dir, got {root}."
            )
        return
    path = Path(ckpt_path)
    if not path.exists():
        siblings = [str(sibling) for sibling in path.parent.glob("*.ckpt") if not sibling.name.startswith(".")]
        raise ConfigError(
            f"ckpt_path must be 'last' or a checkpoint's file, got {str(path)!r}, which does not exist."
            f"{near(str(path), siblings)}"
        )
    if not (zipfile.is_zipfile(path) if path.is_file() else (path / _SHARDED).is_file()):
        # what torch would say of such a file depends on its first bytes
        raise ConfigError(f"ckpt_path must be a whole checkpoint, got {str(path)!r}, which is none or is cut off.")


def refused_checkpoint(error: BaseException) -> str | None:
    """Why a checkpoint could not be loaded, if it came up there: models are loaded elsewhere too, and fail alike."""
    if not any(_LOADING in frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)):
        return None
    text = str(error)
    if isinstance(error, UnpicklingError) or (isinstance(error, RuntimeError) and "PytorchStreamReader" in text):
        return text.strip().splitlines()[0]
    if isinstance(error, RuntimeError) and text.startswith("Error(s) in loading state_dict"):
        return " ".join(text.split())[:300]
    return None
