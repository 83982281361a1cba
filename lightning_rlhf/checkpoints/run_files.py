"""The names of the files that a run leaves in its root, and the search for its checkpoints."""

from collections.abc import Iterable
from pathlib import Path

from lightning_rlhf.checkpoints.replacement import FOLDERS
from lightning_rlhf.errors import RunDirectoryError

__all__ = [
    "CHECKPOINT_FOLDER",
    "CONFIG_FILE",
    "CONFIG_HEADER",
    "LEFTOVERS",
    "METRICS_FILE",
    "MODEL_FOLDER",
    "MODEL_MARK",
    "TRACES",
    "checkpoints",
    "files_there",
    "holds_run",
    "is_ours",
    "last_checkpoint",
    "require_replaceable",
    "root_of_checkpoint",
]

CONFIG_FILE = "config.yaml"
CONFIG_HEADER = "# lightning-rlhf=="
"""How the first line of a saved config begins: what tells a run's directory from someone's own folder."""
METRICS_FILE = "metrics.csv"
CHECKPOINT_FOLDER = "checkpoints"
MODEL_FOLDER = "model"
MODEL_MARK = "rlhf.json"
"""What stands in every folder of a model that this library wrote."""

TRACES = (
    CONFIG_FILE,
    METRICS_FILE,
    "samples.jsonl",
    "kl-scores.csv",
    "kl-scores.svg",
    "tensorboard",
    CHECKPOINT_FOLDER,
    MODEL_FOLDER,
)
"""What training writes: any of these says that a run was here."""
LEFTOVERS = (
    *TRACES,
    "predictions.jsonl",
    "predictions-[0-9]*.jsonl",
    *(f"config-{name}.yaml" for name in ("validate", "test", "predict", "predict-[0-9]*")),
    *(f"metrics-{name}.csv" for name in ("validate", "test")),
)
"""What `--overwrite` removes, evaluations of the old run included; nothing else is touched."""
_REQUEUED = "hpc_ckpt_*.ckpt"
"""What Lightning writes before SLURM starts a job again."""


def checkpoints(root: Path, *folders: Path) -> list[Path]:
    """The checkpoints of a run, whatever they are called, the newest last.

    Args:
        root: of the run.
        *folders: where callbacks of the user's own write checkpoints.
    """
    found = [file for folder in (root / CHECKPOINT_FOLDER, *folders) for file in folder.glob("*.ckpt")]
    files = [file for file in found if not file.name.startswith(".") and file.exists()]  # neither half-written nor gone
    unique = {file.resolve(): file for file in reversed(files)}
    return sorted(unique.values(), key=lambda file: file.stat().st_mtime_ns)


def last_checkpoint(root: Path, *folders: Path) -> Path | None:
    """The file that `ckpt_path: last` means; None: there is none yet.

    Args:
        root: of the run.
        *folders: where callbacks of the user's own write checkpoints.
    """
    files = [*root.glob(_REQUEUED), *(file for folder in folders for file in folder.glob("last*.ckpt"))]
    files.append(root / CHECKPOINT_FOLDER / "last.ckpt")
    there = [file for file in files if file.exists()]  # a link may point at one that is gone
    return max(there, key=lambda file: file.stat().st_mtime_ns, default=None)


def root_of_checkpoint(ckpt_path: str | None, here: Path | None = None) -> Path | None:
    """The root of the run that wrote a checkpoint; None where that cannot be told."""
    if ckpt_path is None:
        return None
    folder = Path(ckpt_path).parent
    root = (here or Path.cwd()) / folder.parent
    places = (root, *(root / name for name in FOLDERS))  # it may be put aside
    is_in_run = folder.name == CHECKPOINT_FOLDER and any(is_ours(place / CONFIG_FILE) for place in places)
    return folder.parent if is_in_run else None


def require_replaceable(model: Path) -> None:
    """Raises `RunDirectoryError` for a folder in the place of a trained model that this library did not write.

    Args:
        model: the folder; need not exist.
    """
    there = model.is_symlink() or model.exists()
    if there and not (model / MODEL_MARK).is_file() and not (model.is_dir() and not any(model.iterdir())):
        raise RunDirectoryError(
            f"{model} must be a model that lightning-rlhf wrote, which a {MODEL_MARK} in it shows, or not be there, "
            "got something else. Move it away, or name another trainer.default_root_dir."
        )


def files_there(root: Path, names: Iterable[str]) -> list[Path]:
    """What is there of a run."""
    return [place for name in (*names, _REQUEUED) for place in root.glob(name)]


def holds_run(path: Path) -> bool:
    """Whether training has written something in a directory."""
    return bool(files_there(path, TRACES))


def is_ours(config: Path) -> bool:
    """Whether a saved config is there that this library wrote."""
    try:
        with config.open(encoding="utf-8") as lines:
            return lines.readline().startswith(CONFIG_HEADER)
    except (OSError, UnicodeDecodeError):
        return False
