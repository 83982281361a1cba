"""A run's root as the user writes it, and as the file system takes it."""

import os
from pathlib import Path

from lightning_rlhf.errors import RunDirectoryError, shown

__all__ = ["usable_root"]

_LONGEST_NAME = 255
"""Bytes of a name at most, on the file systems that are in use."""


def usable_root(root: str | None) -> str | None:
    """The root with `~` as the home that it stands for.

    Raises:
        RunDirectoryError: no file system could take it.
    """
    if root is None:
        return None
    subject = "trainer.default_root_dir must be a path that the file system takes"
    if "\0" in root:
        raise RunDirectoryError(f"{subject}, got {shown(root)} with a NUL in it.")
    try:
        path = Path(root).expanduser()
    except RuntimeError as error:
        raise RunDirectoryError(f"{subject}, got {shown(root)}: {error}") from error
    try:
        if any(len(os.fsencode(name)) > _LONGEST_NAME for name in path.parts):
            raise RunDirectoryError(f"{subject}, got {shown(root)}, with a name of over {_LONGEST_NAME} bytes.")
        path.absolute().lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever makes it will say what is wrong there
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{subject}, got {shown(root)}: {error}") from error
    return str(path)
