import itertools
import json
import socket

import datasets
import pytest

from lightning_rlhf.errors import BadRowError
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Demonstration, Message, Prompt, Text
from lightning_rlhf.testing import DataSourceContract

ROWS = [{"prompt": f"What is {number} + 1?", "response": f"{number + 1}."} for number in range(40)]


class TestFile(DataSourceContract):
    component = "file"
    splits = ("train", "validation", "test")

    @pytest.fixture(autouse=True)
    def _rows(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
        self.init_args = {"path": str(path), "val_fraction": 0.2, "test_fraction": 0.2}


class TestFileWithABadRow(DataSourceContract):
    component = "file"

    @pytest.fixture(autouse=True)
    def _rows(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text('{"text": "Once."}\nno JSON\n{"text": "Twice."}\n')
        self.init_args = {"path": str(path)}


class TestHub(DataSourceContract):
    component = "hub"
    init_args = {"name": "someone/sums"}
    splits = ("train", "test")

    @pytest.fixture(autouse=True)
    def _rows(self, monkeypatch):
        parts = {"train": ROWS[:30], "test": ROWS[30:]}
        loaded = {split: datasets.Dataset.from_list(rows) for split, rows in parts.items()}
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)


class Listed(DataSource):
    """Two records to train on; derived classes spoil them."""

    rows = {"train": [Text("one"), Text("two")], "validation": [], "test": []}

    def load(self, split):
        return list(self.rows[split])


class OfPrompts(Listed):
    rows = {"train": [Prompt("one"), Prompt("two", {"label": "b"})], "validation": [Prompt("three")], "test": []}


class Endless(Listed):
    def load(self, split):
        return (Text(f"{split} {number}") for number in itertools.count())


class Streamed(Listed):
    class Stream:
        def __init__(self, rows):
            self.rows = rows

        def __iter__(self):
            return iter(self.rows)

    def load(self, split):
        return self.Stream(self.rows[split])


class AGenerator(Listed):
    def load(self, split):
        yield from self.rows[split]


@pytest.mark.parametrize("component", [Listed, OfPrompts, Streamed, AGenerator])
def test_a_good_dataset_passes(faults, component):
    assert faults(DataSourceContract, component) == {}


class YieldsDicts(Listed):
    rows = {**Listed.rows, "train": [{"text": "one"}]}


class Empty(Listed):
    rows = {**Listed.rows, "train": []}


class AllBad(Listed):
    rows = {**Listed.rows, "train": [BadRowError("a row must be good, got a bad one.", origin="rows", line=3)]}


class RefusesAnEmptySplit(Listed):
    def load(self, split):
        if split != "train":
            raise KeyError(split)
        return super().load(split)


class NoIterable(Listed):
    def load(self, split):
        return None


class BreaksHalfWay(Listed):
    def load(self, split):
        def rows():
            yield from self.rows[split]
            raise OSError("disk")

        return rows()


class ReadOnce(Listed):
    def load(self, split):
        rows = iter(self.rows[split])
        return Streamed.Stream(rows)


class UsedUp(Listed):
    def __init__(self):
        self.left = {split: list(rows) for split, rows in self.rows.items()}

    def load(self, split):
        rows, self.left[split] = self.left[split], []
        return rows


class AnotherOrderEachTime(Listed):
    turns = itertools.count()

    def load(self, split):
        rows = self.rows[split]
        return rows[::-1] if next(self.turns) % 2 else rows


class OfTwoKinds(Listed):
    rows = {**Listed.rows, "validation": [Prompt("three")]}


class ColumnsOfObjects(Listed):
    rows = {**Listed.rows, "train": [Prompt("one", {"tags": {"a", "b"}})]}


class TrainsOnItsTest(Listed):
    rows = {**Listed.rows, "test": [Text("two")]}


class TrainsOnTheTestsPrompts(Listed):
    @staticmethod
    def _dialogue(response):
        return Demonstration((Message("user", "Why?"), Message("assistant", response)))

    @property
    def rows(self):
        return {"train": [self._dialogue("So.")], "validation": [self._dialogue("No.")], "test": []}


class TellsTooMuch(Listed):
    class Rows(list):
        def __len__(self):
            return 7

    def load(self, split):
        return self.Rows(self.rows[split])


class Downloads(Listed):
    offline = True

    def load(self, split):
        socket.create_connection(("data.example.org", 443), timeout=1).close()
        return super().load(split)


DEFECTS = [
    ("test_holds_records", YieldsDicts, "must yield records, got a dict as number 1 of train."),
    ("test_holds_records", RefusesAnEmptySplit, "must load every split, an empty one too, got KeyError"),
    ("test_holds_records", NoIterable, "must load an iterable of records, got NoneType for train."),
    ("test_holds_records", BreaksHalfWay, "must be readable, got OSError: disk after 2 records."),
    ("test_fills_its_splits", Empty, "must hold at least one record, got none."),
    ("test_fills_its_splits", AllBad, "The first bad row: rows:3: a row must be good"),
    ("test_yields_the_same_records_again", ReadOnce, "from a second pass over what load() returned: 0 instead of 2"),
    ("test_yields_the_same_records_again", UsedUp, "from a second load(): 0 instead of 2"),
    ("test_yields_the_same_records_again", AnotherOrderEachTime, "number 1 first."),
    ("test_holds_one_kind_of_record", OfTwoKinds, "got Text (in train) and Prompt (in validation)."),
    ("test_holds_what_can_be_stored", ColumnsOfObjects, "Object of type set is not JSON serializable"),
    ("test_keeps_its_splits_apart", TrainsOnItsTest, "got one prompt in train and in test: two"),
    ("test_keeps_its_splits_apart", TrainsOnTheTestsPrompts, "got one prompt in train and in validation: (Message("),
    ("test_tells_its_length_truly", TellsTooMuch, "must be the number of its records, 2, got 7."),
    ("test_works_offline_if_it_says_so", Downloads, "It says that it works offline. It asked for data.example.org."),
]


@pytest.mark.parametrize(("check", "component", "message"), DEFECTS)
def test_a_broken_dataset_is_found(faults, monkeypatch, check, component, message):
    # this machine need not have a network: outside of the contract's own cut the host is there
    monkeypatch.setattr(socket, "create_connection", _create_connection)
    found = faults(DataSourceContract, component)
    assert message in found[check]
    assert f"dataset {component.__name__}" in found[check]


def _create_connection(address, timeout):
    if socket.getaddrinfo is _REAL_GETADDRINFO:
        return socket.socket()
    socket.getaddrinfo(*address)
    raise AssertionError("the network must be cut off here")


_REAL_GETADDRINFO = socket.getaddrinfo


def test_every_check_has_a_dataset_that_it_finds():
    assert {check for check, _, _ in DEFECTS} == set(DataSourceContract.checks())


@pytest.mark.parametrize("component", [ReadOnce, OfTwoKinds, TrainsOnItsTest, TellsTooMuch, Downloads, Empty])
def test_a_fault_of_one_kind_is_no_fault_of_another(faults, monkeypatch, component):
    monkeypatch.setattr(socket, "create_connection", _create_connection)
    assert len(faults(DataSourceContract, component)) == 1


def test_an_endless_dataset_is_looked_at_as_far_as_the_test_says(faults):
    assert faults(DataSourceContract, Endless, num_records=5) == {}


def test_splits_that_must_not_be_empty_are_the_tests_to_say(faults):
    found = faults(DataSourceContract, Listed, splits=("train", "test"))
    assert found == {"test_fills_its_splits": "split test of dataset Listed must hold at least one record, got none."}
