"""Tokenized rows go with their process; a kill's are used again by the same run, and cleared away by any other."""

import os
import signal
import stat

import pytest

from lightning_rlhf.data.row_cache import RowsDigest, folder_name, provide_rows
from lightning_rlhf.data.rows import DemonstrationRows
from lightning_rlhf.data.storage import StoredRows, cache_folder
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.records import Text

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # to be killed


class Owner:
    """What the rows go with."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def provide(fakes):
    """Provides the rows of some texts, and counts the records that were tokenized."""
    count = {"tokenized": 0}

    class Counting(DemonstrationRows):
        def rows(self, record, tally):
            count["tokenized"] += 1
            return super().rows(record, tally)

    def call(owner, root, texts, token, label="train", max_length=32):
        count["tokenized"] = 0
        formatter = PromptFormatter(fakes.JoinedTemplate(), fakes.byte_tokenizer())
        path = cache_folder() / folder_name(root, label, 0, token)
        options = {"on_bad_row": "error", "arrange": iter, "packing": False}
        source = fakes.ListSource([Text(text) for text in texts])
        provide_rows(path, owner, source, "train", Counting(formatter, max_length), **options)
        return path, count["tokenized"]

    return call


@pytest.fixture
def killed(provide):
    """Rows of a process that was killed: made in a fork of this one."""

    def call(*args, **options):
        child = os.fork()
        if child == 0:
            try:
                owner = Owner()
                provide(owner, *args, **options)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        return next(place for place in cache_folder().iterdir() if args[2] in place.name)

    return call


def test_the_same_run_uses_the_rows_that_a_kill_left_and_leaves_one_copy(provide, killed):
    left = killed("run", ["abc", "defg"], "first")
    assert left.is_dir()
    owner = Owner()
    path, tokenized = provide(owner, "run", ["abc", "defg"], "second")
    assert tokenized == 0
    assert len(StoredRows(path)) == 2
    assert list(cache_folder().iterdir()) == [path]
    del owner
    assert not list(cache_folder().iterdir())


@pytest.mark.parametrize(("texts", "max_length"), [(["abc", "DEFG"], 32), (["abc", "defg"], 3)])
def test_rows_that_are_made_of_something_else_are_made_anew(provide, killed, texts, max_length):
    killed("run", ["abc", "defg"], "first")
    owner = Owner()
    path, tokenized = provide(owner, "run", texts, "second", max_length=max_length)
    assert tokenized == 2
    assert list(cache_folder().iterdir()) == [path]


def test_another_run_clears_away_what_a_kill_left_but_this_run_keeps_its_other_splits(provide, killed):
    killed("run", ["abc"], "first")
    killed("run", ["xyz"], "second", label="validation")
    owner = Owner()
    train, _ = provide(owner, "run", ["abc"], "third")
    validation, tokenized = provide(owner, "run", ["xyz"], "fourth", label="validation")
    assert tokenized == 0
    killed("gone", ["abc"], "fifth")
    other = Owner()
    path, _ = provide(other, "elsewhere", ["abc"], "sixth")
    assert {*cache_folder().iterdir()} == {train, validation, path}


def test_rows_that_were_cut_off_while_they_were_written_are_not_used(provide, killed):
    left = killed("run", ["abc"], "first")
    (left / "key").unlink()
    owner = Owner()
    assert provide(owner, "run", ["abc"], "second")[1] == 1


def test_nobody_else_may_read_the_rows(provide):
    before = os.umask(0)
    try:
        owner = Owner()
        path, _ = provide(owner, "run", ["abc"], "first")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_a_template_that_renders_otherwise_gives_another_digest(fakes):
    def digest(template):
        return RowsDigest(DemonstrationRows(PromptFormatter(template, fakes.byte_tokenizer()), 32)).hexdigest()

    class Dated(fakes.JoinedTemplate):
        day = "Monday"

        def render(self, messages):
            segments = super().render(messages)
            return [type(segments[0])(self.day, False), *segments]

    monday = digest(Dated())
    assert monday == digest(Dated())
    Dated.day = "Tuesday"
    assert monday != digest(Dated())
