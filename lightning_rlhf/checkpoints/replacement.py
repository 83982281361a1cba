"""An earlier run that a new one replaces: put aside in one step, until the new one has made a step of its own.

The name of a folder in the root says at every moment what the files in the root are, whatever was cut off:

| folder | the files in the root | the folder's files |
|---|---|---|
| `.earlier-run.moving` | of the earlier run | of the earlier run |
| `.earlier-run` | of the new run, which has made no step | the whole earlier run; nothing, where there was none |
| `.earlier-run.gone` | of the new run | nobody's |

Whoever changes this holds the lock of the root.
"""

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

from lightning_rlhf.errors import RunDirectoryError

__all__ = ["FOLDERS", "Replacement", "numbered", "remove"]

_ASIDE = ".earlier-run"
_MOVING = f"{_ASIDE}.moving"
_GONE = f"{_ASIDE}.gone"
_OF_OLD_RELEASES = ".replaced"
"""Where version 0.1 put files one by one, so that nobody can tell how far it came."""
FOLDERS = (_MOVING, _ASIDE, _OF_OLD_RELEASES)
"""Where files of a run may be when a process was cut off."""


class Replacement:
    """What became of the earlier run of a root.

    Args:
        root: of the runs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._moving, self._aside, self._gone = (root / name for name in (_MOVING, _ASIDE, _GONE))

    @property
    def is_pending(self) -> bool:
        """Whether the run in the root has made no step yet."""
        return self._aside.is_dir()

    def begin(self, places: Iterable[Path]) -> None:
        """From here on the files in the root are a new run's.

        Args:
            places: what is there of the earlier run.
        """
        self._moving.mkdir()
        try:
            for place in places:
                place.rename(self._moving / place.name)
            self._moving.rename(self._aside)
        except OSError:
            self._bring_back()
            raise

    def complete(self) -> None:
        """The new run has made a step: the earlier one goes."""
        if self.is_pending:
            self._aside.rename(self._gone)
            # what cannot be removed now is removed by the next start: no reason to end a run
            shutil.rmtree(self._gone, ignore_errors=True)

    def undo(self, written: Iterable[Path]) -> None:
        """The earlier run is there again.

        Args:
            written: what the new run has left in the root.
        """
        if self.is_pending:
            for place in written:
                remove(place)
            self._aside.rename(self._moving)
            self._bring_back()

    def recover(self, written: Iterable[Path]) -> None:
        """Ends what a process began that was cut off.

        Args:
            written: what is in the root of a run.

        Raises:
            RunDirectoryError: files of two runs are there, and nothing says which is which.
        """
        shutil.rmtree(self._gone, ignore_errors=True)
        self.undo(written)
        if self._moving.is_dir():
            self._bring_back()
        old = self._root / _OF_OLD_RELEASES
        if old.is_dir():
            both = [place.name for place in old.iterdir() if (self._root / place.name).exists()]
            if both:
                raise RunDirectoryError(
                    f"{self._root} must hold one run, got files of two: {', '.join(sorted(both))} also in {old}, where "
                    "an earlier run was put aside. Move what you do not want out of the way."
                )
            _move_back(old, self._root)

    def _bring_back(self) -> None:
        _move_back(self._moving, self._root)


def remove(place: Path) -> None:
    """A file, a folder with all that is in it, or a link and not what it leads to."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def numbered(path: Path) -> Path:
    """The first of `name-1`, `name-2`, ... beside a path that is free, its ending kept."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _move_back(folder: Path, root: Path) -> None:
    for place in folder.iterdir():
        there = root / place.name
        if there.exists():  # of a `predict` that ran beside, say: what the runs wrote is told apart already
            there.rename(numbered(there))
        place.rename(there)
    folder.rmdir()
