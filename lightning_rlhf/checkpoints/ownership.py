"""Lock files: which process owns a place, and whether it is still there, on this machine or on another.

On the machine where process ids mean the same, the owner is looked up, with the time at which it was started: a number
that was given to another process is no owner. Elsewhere, on another host or in another container, an owner is alive as
long as it keeps touching its file, which it does every few seconds.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Self

import psutil

from lightning_rlhf.terminal import escaped

__all__ = ["LockHeldError", "Owner", "OwnershipLock", "is_owned"]

_BEAT_S = 15.0
"""How often an owner touches its file."""
_SILENCE_S = 120.0
"""After how long without a touch an owner on another machine counts as gone."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, as another one can recognise it.

    Args:
        host: name of its machine.
        machine: where its id means the same: host, boot and namespace of processes.
        pid: its id.
        started: when it was started, in its machine's own count.
        since: when it took the lock, for people.
        token: of this one lock.
    """

    host: str
    machine: str
    pid: int
    started: str
    since: str
    token: str

    @classmethod
    def this_process(cls) -> Self:
        """The owner that this process is."""
        pid, now = os.getpid(), datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), _machine(), pid, _start_of(pid) or "", now, uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, there since {self.since}"

    @property
    def is_on_this_machine(self) -> bool:
        """Whether its id can be looked up here."""
        return self.machine == _machine()

    @property
    def is_running(self) -> bool:
        """Whether the process is there; to be asked on its machine only."""
        return _start_of(self.pid) == self.started

    @property
    def is_this_process(self) -> bool:
        """Whether it is this one."""
        return self.is_on_this_machine and self.pid == os.getpid() and self.is_running


class LockHeldError(Exception):
    """The lock belongs to a process that is alive.

    Args:
        path: the lock file.
        owner: the process; None where the file does not say.
    """

    def __init__(self, path: Path, owner: Owner | None) -> None:
        self.path, self.owner = path, owner
        super().__init__(f"{path} is held by {owner or 'a process that it does not name'}")


class OwnershipLock:
    """A lock file that is this process's until it lets go of it or ends.

    A copy in another process, forked or unpickled, owns nothing and lets go of nothing.

    Args:
        path: the file; its folder must exist.
        owner: this process.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        self.is_lost = False
        """Whether another process took the lock over, having waited in vain for a touch."""
        self._ended = threading.Event()

    @classmethod
    def take(cls, path: Path) -> Self:
        """Take the lock, also from a process that is gone, which is then named.

        Raises:
            LockHeldError: a process that is alive has it.
            OSError: the file cannot be written.
        """
        lock = cls(path, Owner.this_process())
        while not lock._write():
            owner = _read(path)
            if not path.exists():
                continue
            if owner is None or not owner.is_this_process:
                if is_owned(path, patience_s=_SILENCE_S):
                    raise LockHeldError(path, owner)
                name = owner or "a process that it does not name"
                print(escaped(f"lightning-rlhf: {path} was left behind by {name}, which is gone."), file=sys.stderr)
            _remove_if_of(path, owner)
        lock._sweep()
        threading.Thread(target=lock._touch_again_and_again, daemon=True, name="lightning-rlhf lock").start()
        return lock

    def __reduce__(self) -> tuple[type["OwnershipLock"], tuple[Path, Owner]]:
        return (OwnershipLock, (self.path, self.owner))

    def release(self) -> None:
        """Let go of it."""
        if self.owner.is_this_process and not self._ended.is_set():
            self._ended.set()
            if not self.is_lost:
                with suppress(OSError):
                    _remove_if_of(self.path, self.owner)

    def _write(self) -> bool:
        """Put the whole file in its place at once, if there is none."""
        beside = self.path.with_name(f"{self.path.name}.{self.owner.token}")
        text = json.dumps(asdict(self.owner))
        try:
            with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
                file.write(text)
            try:
                os.link(beside, self.path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                try:
                    file = open(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8")  # noqa: PTH123, SIM115
                except FileExistsError:
                    return False
                with file:
                    file.write(text)
            return True
        finally:
            beside.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what processes left beside the lock that were killed while they took it."""
        for left in self.path.parent.glob(f"{self.path.name}.*"):
            with suppress(OSError):
                if self.path.stat().st_mtime - left.stat().st_mtime > _SILENCE_S:
                    left.unlink()

    def _touch_again_and_again(self) -> None:
        while not self._ended.wait(_BEAT_S):
            with suppress(OSError):  # of a network disk; the next touch may come through
                if _read(self.path) != self.owner:
                    self.is_lost = not self._ended.is_set()
                    return
                os.utime(self.path)


def is_owned(path: Path, patience_s: float = 0.0) -> bool:
    """Whether a lock file is there and its owner alive.

    Args:
        path: the file.
        patience_s: how long an owner on another machine is waited for to touch its file, if it did so lately.
    """
    touched = _touched(path)
    if touched is None:
        return False
    owner = _read(path)
    if owner is not None and owner.is_on_this_machine:
        return owner.is_running
    if _now_of_disk(path) - touched > _SILENCE_S:
        return False
    if not patience_s:
        return True
    who = owner or f"the owner of {path}"
    print(escaped(f"lightning-rlhf: waiting to see whether {who} is alive ..."), file=sys.stderr)
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        time.sleep(min(1.0, patience_s / 10))
        now = _touched(path)
        if now != touched:
            return now is not None
    return False


def _read(path: Path) -> Owner | None:
    try:
        # opened anew each time: that is when a network disk asks its server
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _touched(path: Path) -> float | None:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def _now_of_disk(path: Path) -> float:
    """The time by the clock of whoever keeps the files."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _remove_if_of(path: Path, owner: Owner | None) -> None:
    """Remove the file, unless it is another owner's by now: it is moved first, so that what is removed is known."""
    moved = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(moved)
    except FileNotFoundError:
        return
    if _read(moved) != owner:
        with suppress(OSError):
            os.link(moved, path)
    moved.unlink(missing_ok=True)


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _start_of(pid: int) -> str | None:
    """When a process was started; None where there is none any more."""
    try:
        # not psutil's: it is counted from a boot time that moves with the clock
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(round(process.create_time()))
    except psutil.Error:
        return None
