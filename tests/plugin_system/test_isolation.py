import locale
import logging
import os
import random
import signal
import sys
import warnings

import numpy as np
import pytest
import torch

from lightning_rlhf.errors import PluginError
from lightning_rlhf.plugin_system.isolation import guarded


def test_the_result_is_passed_on():
    assert guarded(lambda: 3, "trying") == 3


def test_standard_streams_are_restored_after_a_fault_too():
    before = sys.stdin, sys.stdout
    with pytest.raises(PluginError, match=r"trying raised ZeroDivisionError: division by zero\."):
        guarded(lambda: 1 / 0, "trying")
    assert (sys.stdin, sys.stdout) == before


@pytest.mark.parametrize(
    "action",
    [
        lambda: print("noise"),
        lambda: sys.stdout.write("noise"),
        lambda: os.write(1, b"noise"),
        lambda: os.system("echo noise"),
    ],
)
def test_nothing_printed_reaches_standard_output(capfd, action):
    with pytest.raises(PluginError, match="trying must not print, got 'noise'"):
        guarded(action, "trying")
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"


def test_what_was_printed_before_is_not_taken_for_the_actions(capfd):
    sys.stdout.write("before ")
    guarded(lambda: None, "trying")
    print("after")
    assert capfd.readouterr().out == "before after\n"


@pytest.mark.parametrize(
    "action", [input, lambda: sys.stdin.read(), lambda: sys.stdin.readline(), lambda: list(sys.stdin)]
)
def test_reading_standard_input_is_a_fault_and_never_blocks(action):
    with pytest.raises(PluginError, match="trying must not read standard input"):
        guarded(action, "trying")


def test_a_child_process_finds_standard_input_empty():
    read, write = os.pipe()  # never written to: whoever reads it waits for ever
    saved = os.dup(0)
    os.dup2(read, 0)
    try:
        assert guarded(lambda: os.read(0, 1), "trying") == b""
    finally:
        os.dup2(saved, 0)
        for descriptor in (saved, read, write):
            os.close(descriptor)


def test_a_log_handler_made_meanwhile_works_afterwards(capsys):
    handler = guarded(lambda: logging.StreamHandler(sys.stdout), "trying")
    handler.emit(logging.makeLogRecord({"msg": "hello"}))
    assert capsys.readouterr().out == "hello\n"


def test_standard_error_is_left_alone(capfd):
    guarded(lambda: print("a warning", file=sys.stderr), "trying")
    assert capfd.readouterr().err == "a warning\n"


def test_the_message_of_an_error_becomes_one_line():
    def fail():
        raise ValueError("first\n  second.")

    with pytest.raises(PluginError, match=r"^trying raised ValueError: first second\.$"):
        guarded(fail, "trying")


@pytest.mark.parametrize(
    ("change", "state", "name"),
    [
        (lambda: os.chdir("/"), os.getcwd, "the working directory"),
        (lambda: os.umask(0), lambda: (os.umask(0o22), os.umask(0o22)), "the mask of file permissions"),
        (lambda: locale.setlocale(locale.LC_ALL, "C"), lambda: locale.setlocale(locale.LC_ALL), "the locale"),
        (lambda: os.environ.update(HOME="/"), lambda: os.environ["HOME"], "environment variables"),
        (lambda: os.environ.pop("PATH"), lambda: os.environ["PATH"], "environment variables"),
        (lambda: random.seed(90210), random.getstate, "Python's random numbers"),
        (lambda: np.random.seed(90210), lambda: str(np.random.get_state()), "NumPy's random numbers"),
        (lambda: np.random.rand(), lambda: str(np.random.get_state()), "NumPy's random numbers"),
        (lambda: torch.manual_seed(90210), lambda: torch.get_rng_state().tolist(), "torch's random numbers"),
        (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype, "torch's default dtype"),
        (lambda: torch.set_default_device("meta"), torch.get_default_device, "torch's default device"),
        (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled, "whether torch records gradients"),
        (lambda: signal.signal(signal.SIGTERM, print), lambda: signal.getsignal(signal.SIGTERM), "signal handlers"),
        (lambda: warnings.simplefilter("ignore"), lambda: warnings.filters[:], "the warnings that are shown"),
        (warnings.resetwarnings, lambda: len(warnings.filters) > 0, "the warnings that are shown"),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_what_the_whole_process_shares_is_put_back(change, state, name, fails):
    before, moved = state(), []
    if fails:
        with pytest.raises(PluginError):
            guarded(lambda: (change(), 1 / 0), "trying", moved)
    else:
        guarded(change, "trying", moved)
    assert state() == before
    assert moved == [name]


def test_what_libraries_rightly_add_stays(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("OF_A_LIBRARY", "")
    monkeypatch.delenv("OF_A_LIBRARY")

    def settle():
        sys.path.append("vendored")
        os.environ["OF_A_LIBRARY"] = "1"
        warnings.filterwarnings("ignore", "a message of its own")

    moved = []
    with warnings.catch_warnings():
        guarded(settle, "trying", moved)
        assert (sys.path[-1], os.environ["OF_A_LIBRARY"], moved) == ("vendored", "1", [])
        assert any(entry[1] is not None and entry[1].pattern == "a message of its own" for entry in warnings.filters)
