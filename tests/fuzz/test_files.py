"""Spoilt files through the `file` source: every row is read, or refused with its file, line and rule."""

import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_rlhf.builtins.sources import FileSource
from lightning_rlhf.errors import BadRowError, DataError
from lightning_rlhf.records import Demonstration, Prompt, Ranking, Text

CLASSES = {"text": Text, "demonstration": Demonstration, "ranking": Ranking, "prompt": Prompt}


def outcomes(path, kind, **options):
    """What a source makes of a file: records and refusals with their lines, each of them checked."""
    found = []
    for outcome, origin, line in FileSource(str(path), **{"kind": kind, **options}).load("train").with_places():
        assert origin == str(path)
        assert line >= 1
        if isinstance(outcome, BadRowError):
            assert (outcome.origin, outcome.line) == (origin, line)
            assert str(outcome).startswith(f"{path}:{line}: ")
            assert len(outcome.rule) > 15
            assert len(outcome.rule) < 1_000, "a message must not repeat a huge row"
            assert outcome.rule.isprintable(), "a message must not drive a terminal"
        else:
            assert isinstance(outcome, CLASSES[kind])
        found.append((outcome, line))
    return found


def whole_or_refused(path, **options):
    """What can be read of a file that may be broken as a whole: then it says so, by its name."""
    try:
        return outcomes(path, **options)
    except DataError as error:
        refusal = error
    assert not isinstance(refusal, BadRowError)
    assert str(path) in str(refusal)
    assert len(str(refusal)) < 1_000
    return None


def lines_of(found):
    return [line for _, line in found]


def num_refused(found):
    return sum(isinstance(outcome, BadRowError) for outcome, _ in found)


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
class TestRows:
    """As many rows come out as went in."""

    def test_of_jsonl(self, tmp_path, rows, kind, number):
        spoilt = rows(kind)
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(spoilt.lines(number)))
        found = outcomes(tmp_path / "rows.jsonl", **spoilt.options)
        assert lines_of(found) == list(range(1, number + 1))
        assert number / 10 < num_refused(found) < number * 9 / 10

    def test_of_jsonl_in_all_splits_together(self, tmp_path, rows, kind, number):
        spoilt = rows(kind)
        (tmp_path / "rows.jsonl").write_bytes(b"\r\n\r\n".join(spoilt.lines(number)))
        source = FileSource(str(tmp_path / "rows.jsonl"), val_fraction=0.2, test_fraction=0.2, **spoilt.options)
        lines = {
            split: lines_of((o, line) for o, _, line in source.load(split).with_places())
            for split in source._fractions()
        }
        assert sorted(line for split in lines.values() for line in split) == list(range(1, 2 * number, 2))

    def test_of_jsonl_whose_kind_is_read_from_its_fields(self, tmp_path, rows, kind, number):
        spoilt = rows(kind)
        first = json.dumps(spoilt.row()).encode()
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join([first, *spoilt.lines(number - 1)]))
        source = FileSource(str(tmp_path / "rows.jsonl"), columns=spoilt.columns)
        found = [(outcome, line) for outcome, _, line in source.load("train").with_places()]
        assert lines_of(found) == list(range(1, number + 1))
        assert all(isinstance(outcome, BadRowError | CLASSES[spoilt.kind]) for outcome, _ in found)

    def test_of_a_json_array(self, tmp_path, rows, kind, number):
        spoilt = rows(kind)
        members = []
        while len(members) < number:
            line = spoilt.line()
            try:
                json.loads(line.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError):
                continue  # it would break the array as a whole
            members.append(line)
        (tmp_path / "rows.json").write_bytes(b"[" + b",\n".join(members) + b"]")
        found = outcomes(tmp_path / "rows.json", **spoilt.options)
        assert lines_of(found) == list(range(1, number + 1))

    def test_of_csv(self, tmp_path, rows, kind, number):
        spoilt = rows(kind)
        names = [*spoilt.row(), "extra"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for _ in range(number):
            row = spoilt.changed()
            cells = [row.get(name, "") if isinstance(row, dict) else row for name in names]
            writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
        (tmp_path / "rows.csv").write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
        found = outcomes(tmp_path / "rows.csv", **spoilt.options)
        assert len(found) == number
        assert lines_of(found) == sorted(set(lines_of(found)))

    def test_of_parquet(self, tmp_path, rows, kind, number):
        """Its columns have types, so what is wrong with a row is that all of its kind are so."""
        spoilt = rows(kind)
        total = 0
        for _ in range(max(2, number // 100)):
            table = _table([spoilt.changed() for _ in range(100)])
            pq.write_table(table, tmp_path / "rows.parquet")
            found = outcomes(tmp_path / "rows.parquet", **spoilt.options)
            assert lines_of(found) == list(range(1, table.num_rows + 1))
            total += len(found)
        assert total > 100


def _table(made):
    """Rows as a table of whatever types Arrow finds for their columns; those that fit none are text."""
    made = [row for row in made if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(name for row in made for name in row):
        values = [row.get(name) for row in made]
        try:
            columns[name] = pa.array(values)
            pq.write_table(pa.table({name: columns[name]}), io.BytesIO())  # it cannot write all that Arrow has
        except (pa.ArrowException, OverflowError, UnicodeError):
            columns[name] = pa.array([_dumped(value) for value in values], pa.binary()).view(pa.string())
    return pa.table(columns)


def _dumped(value):
    """Text that need not be UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("number", [25, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".txt"])
class TestFiles:
    """Files that are broken as a whole: read as far as they say what they hold, or refused by their name."""

    @pytest.fixture
    def whole(self, rows, suffix):
        """The bytes of a file that is all right, and how to read it."""
        spoilt = rows("demonstration" if suffix != ".txt" else "text")
        made = [spoilt.row() for _ in range(20)]
        if suffix == ".parquet":
            stream = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(made), stream)
            return stream.getvalue(), spoilt.options
        if suffix == ".csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, list(made[0]))
            writer.writeheader()
            writer.writerows(made)
            return text.getvalue().encode(), spoilt.options
        if suffix == ".txt":
            return "\n".join(row["text"] for row in made).encode(), spoilt.options
        lines = [json.dumps(row) for row in made]
        return ("\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]").encode(), spoilt.options

    def test_cut_off_anywhere(self, tmp_path, whole, suffix, number):
        content, options = whole
        for place in random.Random(0).choices(range(1, len(content)), k=number):
            (tmp_path / f"rows{suffix}").write_bytes(content[:place])
            whole_or_refused(tmp_path / f"rows{suffix}", **options)

    def test_packed_and_cut_off_anywhere(self, tmp_path, whole, suffix, number):
        content, options = whole
        packed = gzip.compress(content)
        for place in random.Random(0).choices(range(1, len(packed) - 1), k=number):
            (tmp_path / f"rows{suffix}.gz").write_bytes(packed[:place])
            assert whole_or_refused(tmp_path / f"rows{suffix}.gz", **options) is None

    def test_with_bytes_changed_anywhere(self, tmp_path, whole, suffix, number):
        content, options = whole
        rng = random.Random(1)
        for pack in (False, True):
            path = tmp_path / (f"rows{suffix}.gz" if pack else f"rows{suffix}")
            for _ in range(number):
                spoilt = bytearray(gzip.compress(content) if pack else content)
                for _ in range(rng.choice([1, 1, 3, 30])):
                    spoilt[rng.randrange(len(spoilt))] = rng.choice([0, 10, 34, 44, 255, rng.randrange(256)])
                path.write_bytes(spoilt)
                found = whole_or_refused(path, **options)
                if found is not None and suffix in (".jsonl", ".txt") and not pack:
                    assert len(found) == sum(bool(line.strip()) for line in spoilt.split(b"\n"))

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00",
            b"\x00" * 5_000,
            b"\xef\xbb\xbf",
            b"\xff\xfe{\x00",
            b"\n\n\n",
            b" ",
            b"PAR1",
            b"PAR1PAR1",
            b"\x1f\x8b",
        ],
    )
    def test_that_hold_nothing(self, tmp_path, whole, suffix, number, content):
        for path in (tmp_path / f"rows{suffix}", tmp_path / f"rows{suffix}.gz"):
            path.write_bytes(content)
            found = whole_or_refused(path, **whole[1])
            assert found is None or suffix in (".jsonl", ".txt", ".csv")

    def test_of_another_format(self, tmp_path, whole, suffix, number):
        path = tmp_path / "rows"
        path.write_bytes(whole[0])
        for file_format in ("jsonl", "json", "csv", "parquet", "text"):
            whole_or_refused(path, **whole[1], file_format=file_format)
