"""A place belongs to one process, and to nobody once that process is gone."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from lightning_rlhf.checkpoints import ownership
from lightning_rlhf.checkpoints.ownership import LockHeldError, Owner, OwnershipLock, is_owned
from lightning_rlhf.checkpoints.root_choice import run_directory_for_evaluation, run_directory_for_training
from lightning_rlhf.errors import RunDirectoryError

HOLDER = """
import sys, time
from pathlib import Path
from lightning_rlhf.checkpoints.ownership import OwnershipLock
OwnershipLock.take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".fit.lock"


@pytest.fixture
def holder(lock):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def write(lock, **changes):
    """The lock of a process like this one, but for what is said otherwise."""
    owner = replace(Owner.this_process(), **changes)
    lock.write_text(json.dumps({name: getattr(owner, name) for name in Owner.__slots__}))


def test_the_lock_of_a_process_that_is_alive_is_refused_and_that_of_a_killed_one_taken_and_named(lock, holder, capsys):
    with pytest.raises(LockHeldError, match=rf"is held by process {holder.pid} on .+, there since 2"):
        OwnershipLock.take(lock)
    holder.send_signal(signal.SIGSTOP)  # a process that is stopped may go on
    assert is_owned(lock)
    holder.kill()
    while is_owned(lock):  # killed, it is there a moment longer; not yet waited for, it is a zombie
        time.sleep(0.01)
    OwnershipLock.take(lock).release()
    assert f"was left behind by process {holder.pid} on" in capsys.readouterr().err
    assert not list(lock.parent.iterdir())


def test_a_number_that_was_given_to_another_process_is_no_owner(lock):
    write(lock, pid=os.getppid(), started="an hour ago")
    assert not is_owned(lock)
    write(lock, pid=os.getppid(), started=ownership._start_of(os.getppid()))
    assert is_owned(lock)


def test_an_owner_on_another_machine_is_alive_as_long_as_it_touches_its_file(lock, monkeypatch, capsys):
    monkeypatch.setattr(ownership, "_SILENCE_S", 0.5)
    write(lock, host="node7", machine="node7/boot/pid")
    ended = threading.Event()

    def touch():
        while not ended.wait(0.05):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    with pytest.raises(LockHeldError, match="on node7"):
        OwnershipLock.take(lock)
    ended.set()
    thread.join()
    OwnershipLock.take(lock).release()
    assert "waiting to see whether process" in capsys.readouterr().err
    write(lock, host="node7", machine="node7/boot/pid")
    os.utime(lock, (1, 1))
    assert not is_owned(lock)


def test_an_owner_touches_its_file_and_notices_that_another_took_it(lock, monkeypatch):
    monkeypatch.setattr(ownership, "_BEAT_S", 0.01)
    mine = OwnershipLock.take(lock)
    os.utime(lock, (1, 1))
    while lock.stat().st_mtime == 1:
        time.sleep(0.01)
    write(lock, host="node7", machine="node7/boot/pid")
    while not mine.is_lost:
        time.sleep(0.01)
    mine.release()
    assert "node7" in lock.read_text()


def test_a_file_that_says_nothing_is_somebodys_until_it_is_old(lock):
    lock.touch()
    assert is_owned(lock)
    os.utime(lock, (1, 1))
    OwnershipLock.take(lock).release()


def test_a_lock_is_taken_where_there_are_no_links(lock, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(PermissionError("no links here")))
    mine = OwnershipLock.take(lock)
    assert is_owned(lock)
    mine.release()
    assert not list(lock.parent.iterdir())


def test_a_copy_in_another_process_lets_go_of_nothing(lock):
    mine = OwnershipLock.take(lock)
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1])).release()"
    subprocess.run([sys.executable, "-c", code, pickle.dumps(mine).hex()], check=True)
    assert is_owned(lock)
    mine.release()
    assert not lock.exists()


def test_a_process_may_take_what_it_has_not_let_go_of(lock):
    OwnershipLock.take(lock)
    OwnershipLock.take(lock).release()
    assert not lock.exists()


def test_the_second_fit_of_a_root_is_refused_and_an_evaluation_is_not(tmp_path, holder):
    (tmp_path / "config.yaml").write_text("# lightning-rlhf==0.1.0\n")
    before = set(tmp_path.iterdir())
    for words in ({"overwrite": True}, {"overwrite": False}):
        with pytest.raises(RunDirectoryError, match=rf"no other fit uses, got .+, in use by process {holder.pid} "):
            run_directory_for_training(str(tmp_path), "sft", "last", **words)
    assert set(tmp_path.iterdir()) == before
    looking = run_directory_for_evaluation(str(tmp_path), "sft", None, "predict")
    holder.kill()
    holder.wait()
    with pytest.raises(RunDirectoryError, match=r"that no process reads, got .+, which a predict is using"):
        run_directory_for_training(str(tmp_path), "sft", None, overwrite=True)
    looking.release()
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml"}


def test_a_running_overwrite_is_not_withdrawn_by_a_start_beside_it(tmp_path, holder):
    (tmp_path / ".earlier-run").mkdir()
    (tmp_path / "config.yaml").write_text("# lightning-rlhf==0.1.0 new\n")
    with pytest.raises(RunDirectoryError, match="in use by process"):
        run_directory_for_training(str(tmp_path), "sft", None, overwrite=False)
    run_directory_for_evaluation(str(tmp_path), "sft", None, "validate").release()
    assert (tmp_path / "config.yaml").exists()
    assert (tmp_path / ".earlier-run").exists()
