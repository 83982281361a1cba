import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_rlhf.builtins.files import file_format_of, num_rows, read_rows
from lightning_rlhf.errors import DataError, RecordError


def rows_of(path, content, file_format, **options):
    path.write_bytes(content)
    return list(read_rows(path, file_format, **options))


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.b.JSON.gz", "json"),
        ("x/a.csv", "csv"),
        ("a.tsv", "tsv"),
        ("a.parquet.gz", "parquet"),
        ("data-00000-of-00001.arrow", "arrow"),
        ("a.txt", "text"),
    ],
)
def test_the_suffix_names_the_format(name, file_format):
    assert file_format_of(name) == file_format


@pytest.mark.parametrize("name", ["a", "a.gz", "a.jsonl.zip", "a.xlsx", ".jsonl"])
def test_an_unknown_suffix_is_refused_with_those_known(name):
    with pytest.raises(DataError, match=r"one of \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.parquet, \.arrow, \.txt"):
        file_format_of(name)


def test_lines_keep_their_numbers_over_blank_and_broken_ones(tmp_path):
    content = b'\xef\xbb\xbf{"a": "\xc3\xa9"}\r\n\n{"a": "\xff"}\n{"a": NaN}\n{"a"\n{"a": "\\ud800"}\n{"a": true}'
    rows = rows_of(tmp_path / "a.jsonl", content, "jsonl")
    assert [number for number, _ in rows] == [1, 3, 4, 5, 6, 7]
    assert rows[0][1] == {"a": "é"}
    assert rows[-1][1] == {"a": True}
    faults = [str(row) for _, row in rows if isinstance(row, RecordError)]
    assert [fault.partition(", got ")[2] for fault in faults] == [
        "the byte 0xff at 7.",
        "NaN is no JSON value.",
        "expecting ':' delimiter at character 6.",
        "an escape is half a surrogate pair.",
    ]


@pytest.mark.parametrize("depth", [99, 100, 101, 900, 5_000])
def test_how_deep_a_row_may_be_does_not_depend_on_who_reads_it(tmp_path, depth):
    members = [b"[" * depth + b"]" * depth, b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)]

    def read(file_format, frames=0):
        if frames:
            return read(file_format, frames - 1)
        content = b"\n".join(members) if file_format == "jsonl" else b"[" + b",".join(members) + b"]"
        return [not isinstance(row, RecordError) for _, row in rows_of(tmp_path / "a", content, file_format)]

    for file_format in ("jsonl", "json"):
        assert read(file_format) == read(file_format, 600) == [depth <= 100] * 2


def test_brackets_without_end_are_one_bad_row(tmp_path):
    rows = rows_of(tmp_path / "a.jsonl", b"[" * 200_000 + b'\n{"a": 1}\n', "jsonl")
    assert isinstance(rows[0][1], RecordError)
    assert rows[1] == (2, {"a": 1})


@pytest.mark.parametrize("file_format", ["jsonl", "json", "csv", "parquet", "text"])
def test_a_packed_file_reads_as_the_plain_one(tmp_path, file_format):
    rows = [{"a": "é\n1"}, {"a": "2"}] if file_format != "text" else [{"text": "é"}, {"text": "2"}]
    if file_format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "plain")
        content = (tmp_path / "plain").read_bytes()
    elif file_format == "text":
        content = "é\n2\n".encode()
    elif file_format == "csv":
        content = 'a\n"é\n1"\n2\n'.encode()
    else:
        lines = [json.dumps(row) for row in rows]
        content = ("\n".join(lines) if file_format == "jsonl" else f"[{', '.join(lines)}]").encode()
    assert [row for _, row in rows_of(tmp_path / "a", content, file_format)] == rows
    assert [row for _, row in rows_of(tmp_path / "a.gz", gzip.compress(content), file_format)] == rows


@pytest.mark.parametrize("file_format", ["jsonl", "json", "csv", "parquet", "text"])
def test_half_a_gzip_file_is_an_error_and_no_shorter_dataset(tmp_path, file_format):
    packed = gzip.compress(b'{"a": 1}\n' + os.urandom(100_000))
    with pytest.raises(DataError, match="whole gzip file"):
        rows_of(tmp_path / "a.gz", packed[: len(packed) // 2], file_format)


def test_a_file_that_is_no_gzip_is_an_error(tmp_path):
    with pytest.raises(DataError, match="readable file, got Not a gzipped file"):
        rows_of(tmp_path / "a.jsonl.gz", b'{"a": 1}\n', "jsonl")


@pytest.mark.parametrize(
    ("content", "file_format"),
    [(b"\n \n", "jsonl"), (b" ", "json"), (b"[]", "json"), (b"a,b\n", "csv"), (b"\n", "text")],
)
def test_a_file_without_rows_is_an_error(tmp_path, content, file_format):
    with pytest.raises(DataError, match="at least one row, got an empty file"):
        rows_of(tmp_path / "a", content, file_format)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'[\n{"a": 1},\n{"a" 2}]', ":3: the file must be JSON, got expecting ':' delimiter at column 6"),
        (b'{"a": 1}\n{"a": 2}', r"is named \.jsonl"),
        (b'{"a": 1}', "one JSON array of rows, got dict"),
        (b"[\n\xff]", ":2: the file must be JSON, got expecting value at column 1"),
        (b'[{"a": 1} {"a": 2}]', ":1: the file must be JSON, got expecting ',' delimiter at column 11"),
        (b'[{"a": 1},]', ":1: the file must be JSON, got expecting value at column 11"),
        (b'[{"a": 1}', ":1: the file must be JSON, got expecting ',' delimiter at column 10"),
        (b"[" * 200_000, "got expecting ',' delimiter"),
        (b"{" * 200_000, "got expecting property name"),
    ],
)
def test_a_json_file_that_is_no_array_names_its_fault(tmp_path, content, fault):
    with pytest.raises(DataError, match=fault):
        rows_of(tmp_path / "a.json", content, "json")


def test_a_bad_member_of_a_json_array_spoils_its_own_row_only(tmp_path):
    members = [
        b"{}",
        b"NaN",
        b'{"a": "\\ud800"}',
        b'{"a": 1, "b": 2, "a": 3}',
        b"9" * 5000,
        b'{"a": [{"b": 1}]}',
        b"true",
        b'"\xff"',
    ]
    rows = rows_of(tmp_path / "a.json", b"\n [ " + b" ,\n".join(members) + b"\t] \n", "json")
    assert [number for number, _ in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row for _, row in rows if not isinstance(row, RecordError)] == [{}, {"a": [{"b": 1}]}, True]
    faults = [str(row).partition(", got ")[2] for _, row in rows if isinstance(row, RecordError)]
    assert faults[:3] == ["NaN is no JSON value.", "an escape is half a surrogate pair.", "the field 'a' twice."]
    assert "digits" in faults[3]
    assert faults[4] == "bytes that are not UTF-8."


def test_a_parquet_row_that_python_cannot_hold_spoils_itself_only(tmp_path):
    text = pa.array([b"good", b"\xff", b"fine"]).cast(pa.binary()).view(pa.string())
    times = pa.array([0, 1, 2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"text": text, "time": times}), tmp_path / "a.parquet")
    rows = [row for _, row in read_rows(tmp_path / "a.parquet", "parquet")]
    assert rows[0]["text"] == "good"
    assert all("must hold values that Python has" in str(row) for row in rows[1:])


def test_csv_cells_stay_strings_and_keep_their_lines(tmp_path):
    content = b'prompt,label\nhi,007\n"two\nlines",NA\nshort\n\n\xff,1\n"x"y,1\nlast,\n'
    rows = rows_of(tmp_path / "a.csv", content, "csv")
    assert [number for number, _ in rows] == [2, 3, 5, 7, 8, 9]
    assert [row for _, row in rows if isinstance(row, dict)] == [
        {"prompt": "hi", "label": "007"},
        {"prompt": "two\nlines", "label": "NA"},
        {"prompt": "last", "label": ""},
    ]
    faults = [str(row) for _, row in rows if isinstance(row, RecordError)]
    assert "2 cells, as the header has, got 1" in faults[0]
    assert "0xff" in faults[1]
    assert "must be CSV" in faults[2]


def test_rows_that_an_open_quote_swallows_are_told_of(tmp_path):
    content = b'prompt,label\n"a,1\nb,2\nc,"3"\nd,4\n"e,5\nf"\n"g,7'
    rows = rows_of(tmp_path / "a.csv", content, "csv")
    assert rows[1] == (5, {"prompt": "d", "label": "4"})
    faults = [str(row) for _, row in rows if isinstance(row, RecordError)]
    assert "got ',' expected after '\"' in the lines 2 to 4, which quotes make one row." in faults[0]
    assert "2 cells, as the header has, got 1 in the lines 6 to 7" in faults[1]
    assert faults[2].endswith("got unexpected end of data.")
    with pytest.raises(DataError, match=r"a\.csv:8: a quote must be closed, got the end of the file, line 10"):
        rows_of(tmp_path / "a.csv", content + b"\nh,8\ni,9\n", "csv")


def test_a_long_document_fits_into_a_csv_cell(tmp_path):
    rows = rows_of(tmp_path / "a.csv", b"text\n" + b"x" * 300_000 + b"\n", "csv")
    assert len(rows[0][1]["text"]) == 300_000


@pytest.mark.parametrize("header", [b"a,a\n1,2\n", b"a,\n1,2\n"])
def test_a_csv_header_names_each_column_once(tmp_path, header):
    with pytest.raises(DataError, match="must name each column once"):
        rows_of(tmp_path / "a.csv", header, "csv")


@pytest.mark.parametrize(
    ("header", "fault"), [(b"\xff,b\n1,2\n", ":1: a row must be UTF-8"), (b'"a"b\n', "header must")]
)
def test_a_broken_csv_header_ends_the_file(tmp_path, header, fault):
    with pytest.raises(DataError, match=fault):
        rows_of(tmp_path / "a.csv", header, "csv")


def test_parquet_gives_nested_values_and_knows_its_length(tmp_path):
    path = tmp_path / "a.parquet"
    table = [{"messages": [{"role": "user", "content": "hi"}]}] * 600
    pq.write_table(pa.Table.from_pylist(table), path)
    assert list(read_rows(path, "parquet")) == list(enumerate(table, start=1))
    assert num_rows(path, "parquet") == 600
    assert num_rows(path, "jsonl") is None


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ([("prompt", pa.array(["a"])), ("text", pa.array(["b"])), ("prompt", pa.array(["c"]))], "'prompt'"),
        (
            [("turn", pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["role", "role"]))],
            r"'turn\.role'",
        ),
    ],
)
def test_a_parquet_file_names_each_column_once(tmp_path, columns, name):
    names, values = zip(*columns, strict=True)
    pq.write_table(pa.Table.from_arrays(list(values), names=list(names)), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=f"must name each column once, got {name} twice"):
        list(read_rows(tmp_path / "a.parquet", "parquet"))


def test_half_a_parquet_file_is_an_error(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"a": 1}]), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(DataError, match="whole parquet file"):
        rows_of(tmp_path / "a.parquet", content[: len(content) // 2], "parquet")


def test_text_is_read_by_line_or_by_paragraph(tmp_path):
    content = b"  one\r\ntwo\n\n\n\xff\nthree\n\nfour"
    lines = rows_of(tmp_path / "a.txt", content, "text")
    assert [number for number, _ in lines] == [1, 2, 5, 6, 8]
    assert lines[0][1] == {"text": "  one"}
    blocks = rows_of(tmp_path / "a.txt", content, "text", text_unit="paragraph")
    assert blocks[0] == (1, {"text": "  one\r\ntwo"})
    assert blocks[1][0] == 5
    assert isinstance(blocks[1][1], RecordError)
    assert blocks[2] == (8, {"text": "four"})


def arrow_file(path, rows, opener, size=2):
    table = pa.Table.from_pylist(rows)
    with opener(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=size)
    return path


@pytest.mark.parametrize("opener", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_is_read_as_stream_and_as_file_plain_and_packed(tmp_path, opener):
    rows = [{"prompt": str(number), "turns": [{"role": "user"}]} for number in range(600)]
    path = arrow_file(tmp_path / "a.arrow", rows, opener, size=500)
    assert list(read_rows(path, "arrow")) == list(enumerate(rows, start=1))
    assert num_rows(path, "arrow") == 600
    assert [row for _, row in rows_of(tmp_path / "b.arrow.gz", gzip.compress(path.read_bytes()), "arrow")] == rows
    assert num_rows(tmp_path / "b.arrow.gz", "arrow") is None


@pytest.mark.parametrize("opener", [pa.ipc.new_stream, pa.ipc.new_file])
def test_half_an_arrow_file_is_an_error(tmp_path, opener):
    content = arrow_file(tmp_path / "a.arrow", [{"a": str(number)} for number in range(50)], opener).read_bytes()
    with pytest.raises(DataError, match="whole Arrow file"):
        rows_of(tmp_path / "a.arrow", content[: len(content) // 2], "arrow")
    assert num_rows(tmp_path / "a.arrow", "arrow") is None


def test_tsv_cells_end_at_tabs_only(tmp_path):
    rows = rows_of(tmp_path / "a.tsv", b'prompt\tlevel\nhi, you\t"1\t2"\nonly one cell\n', "tsv")
    assert rows[0] == (2, {"prompt": "hi, you", "level": "1\t2"})
    assert "must have 2 cells" in str(rows[1][1])


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": "é"}, {"a": NaN}, {"a": 3}]',
        '\ufeff\n[\n  {"a": "é"},\n  {"a": NaN},\n  {"a": 3}\n]\n',
        '[{"a": "é"},\n{"a": NaN},\n{"a": 3}]',
    ],
)
def test_a_json_array_in_a_file_of_lines_is_read_as_its_rows(tmp_path, content):
    first, bad, last = rows_of(tmp_path / "a.jsonl.gz", gzip.compress(content.encode()), "jsonl")
    assert (first, last) == ((1, {"a": "é"}), (3, {"a": 3}))
    assert str(bad[1]) == "a row must be JSON, got NaN is no JSON value."


def test_lists_that_stand_on_lines_are_rows_of_their_own(tmp_path):
    assert rows_of(tmp_path / "a.jsonl", b'[{"a": 1}]\n[{"a": 2}]\n', "jsonl") == [(1, [{"a": 1}]), (2, [{"a": 2}])]
    with pytest.raises(DataError, match=r"got extra data at column 12\.$"):
        rows_of(tmp_path / "a.jsonl", b'[\n{"a": 1},\n{"a": 2}]  {"a": 3}\n', "jsonl")
