import inspect
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lightning_rlhf.rollout import time_limit as time_limits
from lightning_rlhf.rollout.time_limit import TimeLimitError, time_limit


def no_message():
    return "no message"


def test_what_is_in_time_is_left_alone():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(5.0, no_message):
        value = 3
    assert value == 3
    assert signal.getsignal(signal.SIGALRM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "time limit"]


def loop():
    while True:
        pass


WAITS = {
    "a loop": loop,
    "a sleep": lambda: time.sleep(30),
    "another process": lambda: subprocess.run([sys.executable, "-c", "import time; time.sleep(30)"], check=False),
    "a lock": lambda: threading.Event().wait(30),
}


@pytest.mark.parametrize("kind", list(WAITS))
def test_what_takes_too_long_is_interrupted_wherever_it_waits(kind):
    started = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"it was in .+:\d+"), time_limit(0.05, no_message):
        WAITS[kind]()
    assert time.monotonic() - started < 15


def test_code_that_tries_again_after_every_error_does_not_try_again_after_this_one():
    tries = []

    def stubborn():
        for _ in range(3):
            try:
                tries.append(1)
                time.sleep(30)
            except Exception:
                continue

    with pytest.raises(TimeLimitError), time_limit(0.05, no_message):
        stubborn()
    assert len(tries) == 1


def test_an_error_inside_stays_what_it_is():
    with pytest.raises(KeyError, match="mine"), time_limit(5.0, no_message):
        raise KeyError("mine")


def test_somebody_elses_alarm_reaches_its_handler():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        with time_limit(5.0, no_message):
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert heard == [signal.SIGALRM]


def test_a_limits_own_alarm_never_reaches_somebody_elses_handler():
    """One that comes in time, and one that comes when the code has ended already."""
    heard = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(TimeLimitError), time_limit(0.05, no_message):
            time.sleep(30)
        watch = time_limits._Watch(5.0, no_message)
        watch.begin()
        watch._is_late = True
        watch.over.set()
        signal.raise_signal(signal.SIGALRM)  # sent as the code ended
        watch.end()
        assert heard == []
        signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]  # who had the signal before has it again
    finally:
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_there_is_no_limit():
    done = []

    def work():
        with time_limit(0.01, no_message):
            time.sleep(0.05)
        done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


HOPELESS = """
import runpy, signal, sys, time

parts = runpy.run_path(sys.argv[1])
parts["time_limit"].__wrapped__.__globals__.update(_AGAIN_S=0.05, _GRACE_S=0.1)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as deaf as a function of C that never returns
with parts["time_limit"](0.05, lambda: "the function 'mine' hangs."):
    time.sleep(60)
"""


def test_a_process_that_cannot_be_interrupted_is_ended_with_the_message():
    words = [sys.executable, "-c", HOPELESS, str(Path(inspect.getfile(time_limit.__wrapped__)))]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "lightning-rlhf: error: the function 'mine' hangs. It cannot be interrupted.\n"
