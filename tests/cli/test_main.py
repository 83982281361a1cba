import gc
import os
import subprocess
import sys
import types

import pytest

from lightning_rlhf.cli.main import KERNEL_CACHES, main
from lightning_rlhf.errors import DataError
from lightning_rlhf.version import __version__


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lightning-rlhf {__version__}\n"


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_names_every_command(capsys, word):
    assert main([word]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in ("fit", "validate", "test", "predict", "demo", "plugins"))


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: lightning-rlhf COMMAND" in captured.err


@pytest.mark.parametrize(("word", "hint"), [("fti", "Did you mean fit?"), ("plugin", "plugins"), ("xyzzy", "--help")])
def test_an_unknown_command_is_one_line_with_near_matches(capsys, word, hint):
    assert main([word]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lightning-rlhf: error: the command must be one of fit, validate, ")
    assert hint in captured.err
    assert captured.err.count("\n") == 1


def test_the_program_keeps_fewer_kernels_unless_the_user_says_how_many(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-rlhf", "--version"])
    first, second = KERNEL_CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "")  # so that it is put back
    monkeypatch.delenv(second)
    main()
    assert (os.environ[first], os.environ[second]) == ("7", KERNEL_CACHES[second])


def test_a_call_from_python_leaves_the_environment_alone(monkeypatch, capsys):
    for name in KERNEL_CACHES:
        monkeypatch.delenv(name, raising=False)
    main(["--version"])
    assert not KERNEL_CACHES.keys() & os.environ.keys()


@pytest.fixture
def heavy_command(monkeypatch):
    """Replaces the module of the trainer commands by one whose `run` is given."""

    def replace(run, name="lightning"):
        module = types.ModuleType(f"lightning_rlhf.cli.{name}")
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return replace


@pytest.mark.parametrize("word", ["fit", "validate", "test", "predict"])
def test_trainer_commands_get_all_words(heavy_command, word):
    seen = []
    heavy_command(seen.append)
    assert main([word, "--config", "x.yaml"]) is None
    assert seen == [[word, "--config", "x.yaml"]]


def test_the_demo_gets_the_words_after_it(heavy_command):
    seen = []
    heavy_command(seen.append, "demo")
    main(["demo", "--quick"])
    assert seen == [["--quick"]]


def test_the_words_of_the_process_are_read_and_left_as_they_are(heavy_command, monkeypatch):
    words = ["lightning-rlhf", "fit", "--trainer.devices=2"]
    monkeypatch.setattr(sys, "argv", words)
    heavy_command(lambda argv: argv.clear())
    main()
    assert sys.argv is words
    assert words == ["lightning-rlhf", "fit", "--trainer.devices=2"]


def test_a_users_mistake_is_a_message_and_status_2(heavy_command, capsys):
    def run(argv):
        raise DataError("rows.jsonl must exist, got nothing.")

    heavy_command(run)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == "lightning-rlhf: error: rows.jsonl must exist, got nothing.\n"


def test_an_interrupt_is_status_130(heavy_command, capsys):
    def run(argv):
        raise KeyboardInterrupt

    heavy_command(run)
    assert main(["fit"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_of_ours_keeps_its_traceback(heavy_command):
    def run(argv):
        raise ZeroDivisionError

    heavy_command(run)
    with pytest.raises(ZeroDivisionError):
        main(["fit"])


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["plugins", "list"], ["plugins", "--help"]])
def test_light_commands_load_nothing_heavy(words):
    code = (
        "import sys\nfrom lightning_rlhf.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'transformers', 'jsonargparse', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.endswith("[]\n"), result.stderr


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "lightning_rlhf"]
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (0, f"lightning-rlhf {__version__}\n")
    assert subprocess.run([*command, "nothing"], capture_output=True, timeout=120, check=False).returncode == 2


def test_the_collector_leaves_out_what_a_process_of_ours_imports_and_nothing_in_somebody_elses(monkeypatch, capsys):
    gc.unfreeze()
    try:
        assert main(["plugins", "list"]) == 0
        assert gc.get_freeze_count() == 0
        monkeypatch.setattr(sys, "argv", ["lightning-rlhf", "plugins", "list"])
        assert main() == 0
        assert gc.get_freeze_count() > 0
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # as for all tests


@pytest.mark.parametrize("words", [["--help"], ["plugins", "list"]])
def test_who_closes_the_pipe_has_seen_enough_and_nothing_is_said(words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", f"import sys; from lightning_rlhf.cli.main import main; sys.exit(main({words!r}))"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == 141  # as a shell says of a program that SIGPIPE has ended
