"""The files that a path of a data source stands for: a file, a pattern, a folder of shards, or a saved dataset.

Files come in the order of the numbers in their names, the same on every machine.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from lightning_rlhf.errors import ConfigError, DataError, shown
from lightning_rlhf.plugin_system.interfaces import SPLITS

__all__ = ["files_of", "local_path", "names_one_file", "path_list", "splits_of"]

_SAVED_SPLITS = "dataset_dict.json"
_SAVED = "state.json"
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_ABOUT_DATA = ("dataset_info.json", "dataset_infos.json")
"""Of the files in a folder that have a suffix of data: what these hold is no rows."""
_MOST_NAMES = 8

Recognised = Callable[[str], str | None]
"""The format that a file's name says, or None."""


def path_list(paths: str | list[str]) -> list[str]:
    """What an argument names, one after the other.

    Raises:
        ConfigError: it names nothing.
    """
    listed = [paths] if isinstance(paths, str) else list(paths)
    if not listed or not all(isinstance(path, str) and path for path in listed):
        raise ConfigError(f"path must name at least one file, got {paths!r}.")
    return listed


def local_path(path: str) -> Path:
    """Where a path of the user's is."""
    return Path(path).expanduser()


def names_one_file(path: str) -> bool:
    """Whether a path is that of a file, there or not: no folder, no pattern, and not a name without a suffix."""
    place = local_path(path)
    return place.is_file() or not (place.exists() or has_magic(path) or not place.suffix)


def splits_of(path: str, recognised: Recognised) -> dict[str, list[str]]:
    """The files of each split that one path stands for: all of them train, where it does not name splits itself.

    A folder names splits that holds a saved dataset with splits, or whose files or folders all begin with a split's
    name.

    Args:
        path: what the user named.
        recognised: tells which files hold data.

    Raises:
        DataError: it stands for no file.
    """
    folder = local_path(path)
    if folder.is_dir() and not (folder / _SAVED).exists():
        saved = (folder / _SAVED_SPLITS).exists()
        parts = _saved_splits(folder) if saved else _shards(folder, recognised) or _split_folders(folder)
        by_split: dict[str, list[str]] = {}
        for part in parts:
            split = _SPLIT_NAMES.get(part, "") if saved else _split_name(part)
            by_split.setdefault(split, []).append(_child(path, part))
        held_out = [split for split in by_split if split in SPLITS[1:]]
        if saved or (by_split and "" not in by_split and held_out):
            if "train" not in by_split:
                raise DataError(
                    f"a folder of splits must have the split 'train', got {_listed(parts)} in {path!r}. Name files per "
                    f"split, such as `path: {{train: {_child(path, parts[0]) if parts else '...'}}}`."
                )
            return {split: files_of(paths, recognised) for split, paths in by_split.items() if split}
        if held_out:
            raise DataError(
                f"a folder must hold the files of one split, or files that all begin with the name of theirs, got "
                f"{_listed(parts)} in {path!r}. Name files per split, such as `path: {{train: [...], test: [...]}}`."
            )
    return {"train": files_of([path], recognised)}


def files_of(paths: Sequence[str], recognised: Recognised) -> list[str]:
    """The files of the paths that a user named, each as its path would be typed.

    Args:
        paths: files, patterns and folders.
        recognised: tells which files of a folder hold data.

    Raises:
        DataError: one of them stands for no file.
    """
    return [file for path in paths for file in _files(path, recognised)]


def _files(path: str, recognised: Recognised) -> list[str]:
    place = local_path(path)
    if place.is_dir():
        return _folder_files(path, recognised)
    if place.exists():
        return [path]
    if not has_magic(path):
        raise DataError(f"a data file must exist, got {path!r}, looked for in {Path.cwd()}.")
    matches = [Path(match) for match in glob(str(place), recursive=True)]  # noqa: PTH207 - also of whole paths
    found = [match for match in matches if match.is_file()]
    if not found and not matches:
        raise DataError(f"a pattern must match at least one file, got {path!r}, looked for in {Path.cwd()}.")
    if not found:
        return [file for match in _ordered(map(str, matches)) for file in _folder_files(match, recognised)]
    return _ordered(map(str, found))


def _folder_files(path: str, recognised: Recognised) -> list[str]:
    folder = local_path(path)
    if (folder / _SAVED).exists():
        return [_child(path, name) for name in _saved_files(folder)]
    if (folder / _SAVED_SPLITS).exists():
        raise DataError(
            f"{path} must be one split of a saved dataset here, got one with the splits "
            f"{', '.join(_saved_splits(folder))}. Name the split's folder, such as {_child(path, 'train')!r}."
        )
    shards = _shards(folder, recognised)
    if not shards:
        inside = _listed(_ordered(place.name for place in folder.iterdir()))
        raise DataError(
            f"a folder must hold data files or a saved dataset, got {inside} in {path!r}. Name files further down with "
            f"a pattern, such as {_child(path, '**/*.jsonl')!r}."
        )
    return [_child(path, name) for name in shards]


def _shards(folder: Path, recognised: Recognised) -> list[str]:
    """The names of a folder's data files, which all have one format."""
    formats: dict[str, list[str]] = {}
    for place in folder.iterdir():
        if place.is_file() and place.name[0] not in "._" and place.name not in _ABOUT_DATA:
            file_format = recognised(place.name)
            if file_format is not None:
                formats.setdefault(file_format, []).append(place.name)
    if len(formats) > 1:
        names = _listed([min(names) for names in formats.values()])
        raise DataError(
            f"the data files of a folder must be of one format, got {names} in {str(folder)!r}. Name those that are "
            "meant with a pattern, such as '*.jsonl'."
        )
    return _ordered(name for names in formats.values() for name in names)


def _split_folders(folder: Path) -> list[str]:
    names = _ordered(place.name for place in folder.iterdir() if place.is_dir() and place.name[0] not in "._")
    return [name for name in names if name in _SPLIT_NAMES]


def _split_name(name: str) -> str:
    """The split that a file's or folder's name begins with; empty: none."""
    word = _FIRST_WORD.match(name.lower())
    return _SPLIT_NAMES.get(word[0], "") if word else ""


def _saved_splits(folder: Path) -> list[str]:
    return [str(name) for name in _state(folder / _SAVED_SPLITS).get("splits", ())]


def _saved_files(folder: Path) -> list[str]:
    state = _state(folder / _SAVED)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder} must hold its rows in their order, got a dataset with indices beside it, as old versions of "
            "`datasets` saved. Load it and save it again."
        )
    names = [str(file.get("filename")) for file in state.get("_data_files", ()) if isinstance(file, Mapping)]
    if not names:
        raise DataError(f"{folder} must hold at least one row, got a saved dataset without files.")
    # a folder that somebody else has made names files of its own only
    if any(Path(name).name != name for name in names):
        raise DataError(f"the files of a saved dataset must lie in its folder, got {_listed(names)} in {folder}.")
    return names


def _state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} must be the JSON of a saved dataset, got {error}. Save it again.") from error
    if not isinstance(state, dict):
        raise DataError(f"{file} must be the JSON of a saved dataset, got {shown(state)}. Save it again.")
    return state


def _child(path: str, name: str) -> str:
    return str(Path(path) / name)


def _ordered(names: Iterable[str]) -> list[str]:
    """In the order of their numbers, so that shard 2 stands before shard 10."""
    return sorted(names, key=_with_numbers)


def _with_numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(map(repr, names[:_MOST_NAMES]))}{more}" if names else "nothing"
