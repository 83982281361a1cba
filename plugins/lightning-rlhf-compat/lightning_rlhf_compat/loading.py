"""From `module:name` or `path/to/file.py:name` to the function, and nothing else is ever executed."""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.registry import check_importable

__all__ = ["load_function"]


def load_function(path: str) -> Callable[..., Any]:
    """The function that a path names. Its module is executed: give no path that you would not run.

    Args:
        path: `module:name`, or `path/to/file.py:name`, relative to the working directory. The name may have dots.

    Raises:
        ConfigError: the path has another form, its module cannot be executed, or it names no function.
    """
    place, colon, name = path.rpartition(":")  # from the right: a drive letter has a colon too
    if not colon or not place or not name:
        raise ConfigError(
            f"the path of a reward function must be 'module:name' or 'path/to/file.py:name', got {path!r}. "
            "The name is that of the function in the module or file."
        )
    if not place.endswith(".py"):
        check_importable(f"{place}.{name}")
    found: Any = _file_module(Path(place), path) if place.endswith(".py") else _imported(place, path)
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, vars(found))
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"the path of a reward function must name one of {place}, got {name!r}.{hint}")
        found = getattr(found, part)
    if isinstance(found, type) or not callable(found):
        raise ConfigError(
            f"the path of a reward function must name a function, got {found!r} at {path!r}. Of a class, or of a "
            "function that makes reward functions, name an instance: write one line such as `reward = Name(...)`."
        )
    return found  # type: ignore[no-any-return]


def _imported(module_name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module of the user's: it may fail in any way
        raise _broken(path, error, "Install it, or start in the folder that holds it.") from error


def _file_module(file: Path, path: str) -> ModuleType:
    """The module that a file is, executed once in a process, and again when the file has changed.

    Its name is one that no other module has: a file `json.py` must not hide `json`.
    """
    file = file.expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"the file of a reward function must exist, got {path!r}: there is no {file}.")
    name = f"_lightning_rlhf_compat_{hashlib.sha256(bytes(file) + file.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file, loader=_AsItStands(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(path, error, "The file is executed as it stands, without its command line.") from error
    return module


class _AsItStands(SourceFileLoader):
    """Leaves Python's own cache of compiled files alone, which takes a file for unchanged within a second."""

    def path_stats(self, path: Any) -> NoReturn:
        """No time of change: nothing is looked up in the cache, and nothing is put there."""
        raise OSError


def _broken(path: str, error: BaseException, advice: str) -> ConfigError:
    reason = f"{type(error).__name__}: {error}"
    return ConfigError(f"the module of a reward function must be importable, got {path!r} ({reason}). {advice}")
