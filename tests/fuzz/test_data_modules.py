"""Spoilt rows through the tokenizations of the data modules: each is stored, or skipped and counted."""

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest

from lightning_rlhf.builtins.rows import record_from_row
from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.data.rows import DemonstrationRows, PromptRows, RankingRows, Tally
from lightning_rlhf.data.storage import StoredRows, store_rows, tokenized_rows
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import BadRowError, RecordError
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.registry import create

READS = {
    "text": ["demonstrations"],
    "demonstration": ["demonstrations", "prompts"],
    "ranking": ["rankings", "prompts"],
    "prompt": ["prompts"],
}
CONVERTERS = ["linear", "borda", "zscore", "bradley_terry"]


def formatter(tokenizer, template="chatml"):
    return PromptFormatter(create("prompt_template", template), tokenizer)


def tokenizations(kind, formatter):
    """Every way in which a data module reads rows of a kind."""
    made = {
        "demonstrations": [DemonstrationRows(formatter, 64)]
        + [DemonstrationRows(formatter, 32, truncation=name) for name in ("left", "drop", "window")]
        + [DemonstrationRows(formatter, 8, "last", "right")],
        "prompts": [PromptRows(formatter, 32), PromptRows(formatter, 32, "left"), PromptRows(formatter, 32, "right")],
        "rankings": [RankingRows(formatter, 48, create("ranking_converter", name)) for name in CONVERTERS]
        + [RankingRows(formatter, 48, create("ranking_converter", "linear"), keep_all=True)],
    }
    return [tokenization for name in READS[kind] for tokenization in made[name]]


def longest(tokenization):
    return getattr(tokenization, "max_length", None) or tokenization.max_prompt_length


def check_counts(source, number, tokenization):
    """As many rows are stored, left out for want of an order, or skipped, as there were lines."""
    tally = Tally()
    places = set()
    for row in tokenized_rows(source, "train", tokenization, "skip", tally):
        places |= set(row["places"])
        assert set(row) == {*tokenization.features, "places"}
        assert tokenization.length(row) <= longest(tokenization)
    left_out = 0 if getattr(tokenization, "keep_all", True) else tally.num_unordered
    assert len(places) + tally.num_skipped + tally.num_too_long + left_out == number
    assert 0 <= tally.num_kept_tokens <= tally.num_tokens
    assert 0 <= tally.num_kept_targets <= tally.num_targets
    assert tally.first_skipped.startswith(f"{source.path}:")
    assert places or tally.num_too_long


@pytest.fixture
def spoilt(tmp_path, rows, kind):
    """`spoilt(number, seed)`: a source of that many rows."""

    def write(number, seed=0):
        made = rows(kind, seed)
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(made.lines(number)))
        return FileSource(str(tmp_path / "rows.jsonl"), **made.options)

    return write


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_every_row_is_stored_or_counted(spoilt, tokenizer, template):
    source = spoilt(50)
    for tokenization in tokenizations(source.kind, formatter(tokenizer, template)):
        check_counts(source, 50, tokenization)


@pytest.mark.slow
def test_every_one_of_many_rows_is_stored_or_counted(spoilt, tokenizer):
    source = spoilt(10_000)
    for tokenization in tokenizations(source.kind, formatter(tokenizer)):
        check_counts(source, 10_000, tokenization)


@pytest.mark.parametrize("number", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_what_is_stored_is_what_was_made(tmp_path, spoilt, tokenizer, number):
    source = spoilt(number, seed=1)
    tokenization = tokenizations(source.kind, formatter(tokenizer))[0]
    tally = store_rows(tmp_path / "stored", source, "train", tokenization, on_bad_row="skip")
    stored = StoredRows(tmp_path / "stored")
    made = list(tokenized_rows(source, "train", tokenization, "skip", Tally()))
    assert len(stored) == tally.num_rows == len(made)
    assert [stored[place] for place in range(len(made))] == made


def test_the_first_bad_row_ends_a_run_that_is_to_stop(spoilt, tokenizer):
    source = spoilt(60, seed=2)
    tokenization = tokenizations(source.kind, formatter(tokenizer))[0]
    tally = Tally()
    list(tokenized_rows(source, "train", tokenization, "skip", tally))
    with pytest.raises(BadRowError) as stopped:
        list(tokenized_rows(source, "train", tokenization, "error", Tally()))
    assert str(stopped.value) == tally.first_skipped


class PythonRows(DataSource):
    """What a plug-in may yield: records of Python's own objects, which no file could hold."""

    path = "python"

    def __init__(self, made, options):
        self.made = made
        self.options = options

    def load(self, split):
        for number, row in enumerate(self.made, start=1):
            try:
                yield record_from_row(row, **self.options)
            except RecordError as error:
                yield BadRowError(str(error), origin=self.path, line=number)


@pytest.mark.parametrize("number", [60, pytest.param(2_000, marks=pytest.mark.slow)])
def test_every_record_of_a_plug_in_is_stored_or_counted(rows, kind, tokenizer, number):
    made = rows(kind, seed=3)
    endless: list = []
    endless.append(endless)
    deep: list = []
    for _ in range(5_000):
        deep = [deep]
    strange = [
        b"a",
        {1},
        1j,
        object(),
        Decimal(1),
        datetime(1, 1, 1, tzinfo=UTC),
        endless,
        deep,
        np.zeros(2),
        np.int8(1),
    ]
    changed = [made.changed() for _ in range(number)]
    for row in changed:
        if isinstance(row, dict) and made.rng.random() < 0.3:
            row[made.rng.choice([*row, "extra"])] = made.rng.choice(strange)
    source = PythonRows(changed, made.options)
    for tokenization in tokenizations(made.kind, formatter(tokenizer)):
        tally = Tally()
        found = list(tokenized_rows(source, "train", tokenization, "skip", tally))
        places = {place for row in found for place in row["places"]}
        left_out = 0 if getattr(tokenization, "keep_all", True) else tally.num_unordered
        assert len(places) + tally.num_skipped + tally.num_too_long + left_out == number
    assert 0 <= tally.num_kept_tokens <= tally.num_tokens
    assert 0 <= tally.num_kept_targets <= tally.num_targets
