"""Which checkpoint `--ckpt_path` means, and why one cannot be used."""

from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from traceback import walk_tb

from lightning_rlhf.checkpoints.integrity import require_whole
from lightning_rlhf.checkpoints.run_files import checkpoints, last_checkpoint
from lightning_rlhf.checkpoints.strategies import by_age, require_usable, siblings
from lightning_rlhf.cli.explain import near
from lightning_rlhf.errors import ConfigError, ModelError

__all__ = ["NO_FILE", "check_checkpoint", "newest_usable", "refused_checkpoint"]

_LOADING = "checkpoint_connector"
"""The module of Lightning that loads checkpoints."""
NO_FILE = ("last", "hpc", "best")
"""What Lightning takes for a word and not for a path."""


def check_checkpoint(ckpt_path: str | None, root: Path, *, is_fit: bool, is_first: bool) -> None:
    """Look whether there is a checkpoint to load, and whether it is whole, before anything large is built.

    Args:
        ckpt_path: what the user gave.
        root: the run's root, in which `last` is looked for.
        is_fit: training may begin where there is no last checkpoint yet: a job that is started again says the same
            command each time.
        is_first: this process looks for the others too: the file may be large.

    Raises:
        ConfigError: there is none.
        ModelError: it is damaged, or cannot be used for this.
    """
    if ckpt_path is None or ckpt_path == "hpc":
        return
    if "://" in str(ckpt_path):
        raise ConfigError(f"ckpt_path must be a file of this machine, got {ckpt_path!r}. Download it first.")
    path = last_checkpoint(root) if ckpt_path == "last" else Path(ckpt_path)
    if path is None:
        if is_fit:
            return
        raise ConfigError(f"ckpt_path 'last' must find checkpoints/last.ckpt in trainer.default_root_dir, got {root}.")
    if not path.exists():
        others = [str(sibling) for sibling in siblings(path)]
        raise ConfigError(
            f"ckpt_path must be 'last' or a checkpoint's file, got {str(path)!r}, which does not exist."
            f"{near(str(path), others)}"
        )
    if is_first:
        require_whole(path, lambda: by_age([*siblings(path), *checkpoints(root)]))
        require_usable(path, is_fit=is_fit)


def newest_usable(root: Path, *folders: Path) -> Path | None:
    """What a run goes on from that was killed between its first checkpoint and the copy that is called last.

    Args:
        root: of the run.
        *folders: where callbacks of the user's own write checkpoints.
    """
    for path in reversed(checkpoints(root, *folders)):
        with suppress(ModelError):
            require_whole(path)
            require_usable(path, is_fit=True)
            return path
    return None


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
