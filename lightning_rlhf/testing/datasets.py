"""The contract of datasets."""

import json
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, ClassVar

from lightning_rlhf.errors import BadRowError
from lightning_rlhf.plugin_system.interfaces import SPLITS, DataSource
from lightning_rlhf.records import Demonstration, Prompt, Ranking, Record, Text
from lightning_rlhf.testing.contract import Contract, described
from lightning_rlhf.testing.network import without_network

__all__ = ["DataSourceContract"]

_KINDS = (Text, Demonstration, Ranking, Prompt)


class DataSourceContract(Contract[DataSource]):
    """What every dataset must do.

    Example:
        class TestReviews(DataSourceContract):
            component = "reviews"
            splits = ("train", "validation")
    """

    __test__ = False
    kind = "dataset"

    splits: ClassVar[Sequence[str]] = ("train",)
    """Those that must not be empty."""
    num_records: ClassVar[int] = 10_000
    """How many records of each split are looked at."""

    def test_holds_records(self) -> None:
        """Every item is a record, or the error that stands for a bad row."""
        source = self.make()
        for split in SPLITS:
            for number, record in enumerate(self.records(source, split), start=1):
                assert isinstance(record, (*_KINDS, BadRowError)), (
                    f"{self.subject} must yield records, got a {type(record).__name__} as number {number} of {split}."
                )

    def test_fills_its_splits(self) -> None:
        """Those in `splits` hold a record that is no bad row."""
        source = self.make()
        for split in self.splits:
            records = self.records(source, split)
            good = [record for record in records if not isinstance(record, BadRowError)]
            bad = next((f" The first bad row: {record}" for record in records if isinstance(record, BadRowError)), "")
            assert good, f"split {split} of {self.subject} must hold at least one record, got none.{bad}"

    def test_yields_the_same_records_again(self) -> None:
        """From the same source, from what it returned before, and from another instance."""
        source = self.make()
        for split in SPLITS:
            loaded = self._load(source, split)
            first = self._taken(loaded, split)
            passes = {
                "a second load()": self.records(source, split),
                "another instance": self.records(self.make(), split),
            }
            if not isinstance(loaded, Iterator):  # a generator is read once
                passes["a second pass over what load() returned"] = self._taken(loaded, split)
            for what, again in passes.items():
                assert list(map(_comparable, again)) == list(map(_comparable, first)), (
                    f"split {split} of {self.subject} must be repeatable, got other records from {what}"
                    f"{_difference(first, again)}."
                )

    def test_holds_one_kind_of_record(self) -> None:
        """Over all splits: a data module reads one kind."""
        source = self.make()
        kinds: dict[str, str] = {}
        for split in SPLITS:
            for record in self.records(source, split):
                if isinstance(record, _KINDS):
                    kinds.setdefault(type(record).__name__, split)
        assert len(kinds) < 2, (
            f"{self.subject} must hold one kind of record, got "
            f"{' and '.join(f'{kind} (in {split})' for kind, split in kinds.items())}."
        )

    def test_holds_what_can_be_stored(self) -> None:
        """Rows are kept in files while a run needs them: text must be UTF-8, a prompt's columns JSON."""
        source = self.make()
        for split in SPLITS:
            for number, record in enumerate(self.records(source, split), start=1):
                if isinstance(record, _KINDS):
                    try:
                        json.dumps(_parts(record), ensure_ascii=False).encode()
                    except (TypeError, ValueError) as error:
                        raise AssertionError(
                            f"record {number} of split {split} of {self.subject} must hold text and JSON values, got "
                            f"{described(error)}."
                        ) from error

    def test_keeps_its_splits_apart(self) -> None:
        """No prompt, and no text, stands in two splits."""
        source = self.make()
        places: dict[Any, str] = {}
        for split in SPLITS:
            for record in self.records(source, split):
                if isinstance(record, _KINDS):
                    prompt = _prompt(record)
                    other = places.setdefault(prompt, split)
                    assert other == split, (
                        f"{self.subject} must keep its splits apart, got one prompt in {other} and in {split}: "
                        f"{prompt!s:.200}"
                    )

    def test_tells_its_length_truly(self) -> None:
        """A length is optional; one that is told is the number of records."""
        source = self.make()
        for split in SPLITS:
            loaded = self._load(source, split)
            if isinstance(loaded, Sized) and len(loaded) <= self.num_records:
                number = len(self._taken(loaded, split))
                assert len(loaded) == number, (
                    f"the length of split {split} of {self.subject} must be the number of its records, {number}, got "
                    f"{len(loaded)}."
                )

    def test_works_offline_if_it_says_so(self) -> None:
        """With `offline = True` it loads where no other machine can be reached."""
        source = self.make()
        if source.offline:
            with without_network() as asked:
                for split in SPLITS:
                    try:
                        self.records(self.make(), split)
                    except AssertionError as error:
                        hosts = f" It asked for {', '.join(dict.fromkeys(asked))}." if asked else ""
                        raise AssertionError(f"{error} It says that it works offline.{hosts}") from error

    def records(self, source: DataSource, split: str) -> list[Any]:
        """The first records of a split."""
        return self._taken(self._load(source, split), split)

    def _load(self, source: DataSource, split: str) -> Iterable[Record]:
        try:
            loaded = source.load(split)
        except Exception as error:
            raise AssertionError(
                f"{self.subject} must load every split, an empty one too, got {described(error)} for {split}."
            ) from error
        iterable = isinstance(loaded, Iterable) and not isinstance(loaded, str | bytes)
        assert iterable, f"{self.subject} must load an iterable of records, got {type(loaded).__name__} for {split}."
        return loaded

    def _taken(self, loaded: Iterable[Record], split: str) -> list[Any]:
        taken: list[Any] = []
        try:
            taken.extend(islice(loaded, self.num_records))
        except Exception as error:
            raise AssertionError(
                f"split {split} of {self.subject} must be readable, got {described(error)} after {len(taken)} records."
            ) from error
        return taken


def _prompt(record: Record) -> Any:
    """What the record's response continues; of a text all of it."""
    if isinstance(record, Text):
        return record.text
    if not isinstance(record, Demonstration):
        return record.prompt
    last = max(index for index, message in enumerate(record.messages) if message.role == "assistant")
    return record.messages[:last] or record.messages


def _parts(record: Record) -> Any:
    """What a record holds, as lists of text and a prompt's columns."""
    if isinstance(record, Text):
        return record.text
    messages = record.messages if isinstance(record, Demonstration) else record.prompt
    more = record.responses if isinstance(record, Ranking) else dict(getattr(record, "columns", {}))
    return [[message.content for message in messages], more]


def _comparable(record: Any) -> Any:
    return str(record) if isinstance(record, BadRowError) else record


def _difference(first: Sequence[Any], again: Sequence[Any]) -> str:
    if len(first) != len(again):
        return f": {len(again)} instead of {len(first)}"
    place = next(number for number, (one, other) in enumerate(zip(first, again, strict=True)) if one != other)
    return f", number {place + 1} first"
