"""Built-in datasets: local files and the hub.

A bad row does not end a stream: a `BadRowError` that names its place is yielded in the row's stead, and the consumer
raises or counts it. A plug-in's `DataSource` may do the same.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightning_rlhf.builtins.files import FileFormat, TextUnit, file_format_of, num_rows, read_rows
from lightning_rlhf.builtins.nesting import exploded_rows, explosion_steps
from lightning_rlhf.builtins.paths import files_of, local_path, names_one_file, path_list, splits_of
from lightning_rlhf.builtins.rows import KINDS, RecordKind, RowReader
from lightning_rlhf.builtins.splitting import assigned_split, check_fractions
from lightning_rlhf.errors import BadRowError, ConfigError, DataError, RecordError
from lightning_rlhf.plugin_system.interfaces import SPLITS, DataSource
from lightning_rlhf.records import Record

__all__ = ["FileSource", "HubSource"]


class _Records:
    """The records of one split, read anew by every iteration."""

    def __init__(self, source: "_RowSource", part: str, split: str) -> None:
        self._source = source
        self._part = part
        self._split = split
        self.unread_fields: dict[str, int] = {}
        """Fields that nothing reads, with the number of rows that have them, of the pass that was begun last."""
        self.nothing_held_out = ""
        """After a pass: why a fraction of the rows is none of them."""

    def __iter__(self) -> Iterator[Record]:
        return (record for record, _, _ in self.with_places())

    def with_places(self) -> Iterator[tuple[Any, str, int]]:
        """Records with file and line, for what is found wrong with one only when it is tokenized."""
        source = self._source
        reader = RowReader(source.columns, source.kind, wanted=source._wanted)
        self.unread_fields.clear()
        reader.unread = self.unread_fields
        num_rows = num_held_out = 0
        for origin, number, place, row in self._single_rows(reader):
            try:
                if isinstance(row, RecordError):
                    raise row
                record = reader.record(row)
            except RecordError as error:
                if self._split == self._part:  # no prompt, no hash: a bad row is told of once, where it was read
                    rule = f"at {place}: {error}" if place else str(error)
                    yield BadRowError(rule, origin=origin, line=number), origin, number
                continue
            num_rows += 1
            if source._split_of(record, self._part) == self._split:
                num_held_out += 1
                yield record, origin, number
        if self._split != self._part and num_rows and not num_held_out:
            self.nothing_held_out = self._told_of(num_rows)

    def _told_of(self, num_rows: int) -> str:
        name = "val_fraction" if self._split == "validation" else "test_fraction"
        return (
            f"{name} {self._source._fractions()[self._split]:g} of {num_rows} rows holds out none: a hash of each "
            f"prompt decides. Raise {name}, or name a file for the {self._split} split in `path`."
        )

    def _single_rows(self, reader: RowReader) -> Iterator[tuple[str, int, str, Any]]:
        """Origin, line, the place in the row that was taken apart, and the row; the reader is told of text cells."""
        for origin, number, row, text_cells in self._source._rows(self._part):
            reader.text_cells = text_cells
            if isinstance(row, RecordError):
                yield origin, number, "", row
                continue
            for place, piece in exploded_rows(row, self._source._steps, text_cells=text_cells):
                yield origin, number, place, piece


class _SizedRecords(_Records):
    """Records whose number is known before they are read."""

    def __init__(self, source: "_RowSource", split: str, length: int) -> None:
        super().__init__(source, split, split)
        self._length = length

    def __len__(self) -> int:
        return self._length


class _RowSource(DataSource):
    """What files and the hub share: rows to records, and splits cut out of the training rows."""

    def __init__(
        self,
        columns: Mapping[str, str | list[str]] | None,
        val_fraction: float,
        test_fraction: float,
        kind: RecordKind | None,
        explode: str | None,
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.explode = explode
        self._steps = explosion_steps(explode)
        self.columns = dict(columns or {})
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.kind = kind
        self._wanted: tuple[RecordKind, ...] = ()

    def for_kinds(self, kinds: Sequence[type[Record]]) -> DataSource:
        """The same rows, read as the kinds that are wanted; `kind` still says what all of them are."""
        wanting = copy.copy(self)
        wanting._wanted = tuple(KINDS[kind] for kind in kinds)
        return wanting

    def load(self, split: str) -> Iterable[Record]:
        """The records of one split, with a `BadRowError` in place of each bad row.

        Args:
            split: one of train, validation, test. A split that nothing supplies and no fraction cuts out of the
                training rows is empty.

        Raises:
            DataError: the split cannot be read.
        """
        if split not in SPLITS:
            raise DataError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}.")
        part = "train" if self._fractions()[split] else split
        if not self._has(part):
            return ()
        counted = not self._steps and not (any(self._fractions().values()) and part == "train")
        length = self._num_rows(part) if counted else None
        return _Records(self, part, split) if length is None else _SizedRecords(self, split, length)

    def _fractions(self) -> dict[str, float]:
        return {"train": 0.0, "validation": self.val_fraction, "test": self.test_fraction}

    def _split_of(self, record: Record, part: str) -> str:
        if part != "train" or not (self.val_fraction or self.test_fraction):
            return part
        return assigned_split(record, self.val_fraction, self.test_fraction)

    def _check_overlap(self, given: Iterable[str], argument: str) -> None:
        unknown = [split for split in given if split not in SPLITS]
        if unknown:
            raise ConfigError(f"the splits in `{argument}` must be among {', '.join(SPLITS)}, got {unknown[0]!r}.")
        for split, fraction in self._fractions().items():
            if fraction and split in given:
                name = "val_fraction" if split == "validation" else "test_fraction"
                raise ConfigError(f"{name} must be 0 when `{argument}` names the {split} split, got {fraction}.")

    @abstractmethod
    def _has(self, part: str) -> bool:
        """Whether there are rows for a part; raises DataError when they should be there and are not."""

    @abstractmethod
    def _rows(self, part: str) -> Iterator[tuple[str, int, Any, bool]]:
        """Origin, line, row (or what is wrong with it), and whether its fields are cells of text."""

    @abstractmethod
    def _num_rows(self, part: str) -> int | None:
        """How many rows a part holds, where that costs nothing to know."""


class FileSource(_RowSource):
    """Rows of local files: jsonl, json (one array), csv, tsv, parquet, arrow or txt, plain or packed with gzip.

    A line of a text file is a text, or a prompt where prompts are read.

    Args:
        path: a file, a pattern (`data/*.jsonl.gz`), a folder of shards or of a dataset that `save_to_disk` wrote; a
            list of these, read one after the other; or these per split (`{train: a.jsonl, validation: b.jsonl}`). A
            folder whose files begin with the names of splits, or whose dataset has splits, holds those splits.
        columns: the file's names for our fields, such as `{prompt: question, response: answer}`. A value may be a path
            into a field (`chosen.value`, `conversations.0.value`) or a list (`responses: [response1, response2]`).
        val_fraction: share of the prompts to hold out for validation, chosen by a hash of the prompt.
        test_fraction: share of the prompts to hold out for testing.
        kind: what a row is: text, demonstration, ranking or prompt; null reads it from the row's fields.
        file_format: jsonl, json, csv, tsv, parquet, arrow or text; null reads it from the file's name.
        text_unit: what is one row of a text file: a line, or a paragraph, which ends at a blank line.
        explode: the field whose list becomes rows of their own, or a path through lists (`paragraphs.qas`); the fields
            of the outer levels stay. `columns` maps what comes out.
    """

    offline = True

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        columns: dict[str, str | list[str]] | None = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        kind: RecordKind | None = None,
        file_format: FileFormat | None = None,
        text_unit: TextUnit = "line",
        explode: str | None = None,
    ) -> None:
        super().__init__(columns, val_fraction, test_fraction, kind, explode)
        self.path = path
        self.file_format = file_format
        self.text_unit = text_unit
        by_split = path if isinstance(path, dict) else {"train": path}
        self._paths = {split: path_list(paths) for split, paths in by_split.items()}
        self._check_overlap(self._paths, "path")
        for file in filter(names_one_file, (file for paths in self._paths.values() for file in paths)):
            self._format(file)

    def _format(self, file: str) -> FileFormat:
        return self.file_format or file_format_of(file)

    def _recognised(self, file: str) -> str | None:
        try:
            return self._format(file)
        except DataError:
            return None

    def _files(self, part: str) -> list[str]:
        """The files of a part; none: it has none."""
        if isinstance(self.path, str):  # it may name splits itself; one that is cut out of train is not read
            return splits_of(self.path, self._recognised).get(part, [])
        return files_of(self._paths.get(part, ()), self._recognised)

    def _has(self, part: str) -> bool:
        files = self._files(part)
        for file in files:
            self._format(file)
            if local_path(file).stat().st_size == 0:
                raise DataError(f"{file} must hold at least one row, got an empty file.")
        return bool(files)

    def _rows(self, part: str) -> Iterator[tuple[str, int, Any, bool]]:
        for file in self._files(part):
            file_format = self._format(file)
            for number, row in read_rows(local_path(file), file_format, self.text_unit, one_object=bool(self._steps)):
                if file_format == "text" and self._reads_prompts and isinstance(row, dict):
                    row = {"prompt": row["text"]}
                yield file, number, row, file_format in ("csv", "tsv")

    @property
    def _reads_prompts(self) -> bool:
        """Whether a text by itself is a prompt: no column is made of it, and who reads the rows takes no texts."""
        if "text" in self.columns.values():
            return False
        return self.kind == "prompt" or (self.kind is None and "prompt" in self._wanted and "text" not in self._wanted)

    def _num_rows(self, part: str) -> int | None:
        counts = [num_rows(local_path(file), self._format(file)) for file in self._files(part)]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


class HubSource(_RowSource):
    """Rows of a dataset from the Hugging Face hub; nothing in it is executed.

    Args:
        name: the dataset's id, such as `owner/name`.
        config: which configuration of it, where it has several.
        splits: the hub's names for our splits, such as `{train: train_prefs, validation: test_prefs}`; null takes the
            splits that are called train, validation and test, less those that the fractions below cut out of train.
        columns: the dataset's names for our fields, as for `file`.
        revision: commit, tag or branch; name a commit so that a later run reads the same rows.
        val_fraction: share of the prompts to hold out for validation, chosen by a hash of the prompt.
        test_fraction: share of the prompts to hold out for testing.
        kind: what a row is: text, demonstration, ranking or prompt; null reads it from the row's fields.
        explode: the field whose list becomes rows of their own, or a path through lists (`paragraphs.qas`); the fields
            of the outer levels stay. `columns` maps what comes out.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        splits: dict[str, str] | None = None,
        columns: dict[str, str | list[str]] | None = None,
        revision: str | None = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        kind: RecordKind | None = None,
        explode: str | None = None,
    ) -> None:
        super().__init__(columns, val_fraction, test_fraction, kind, explode)
        self.name = name
        self.config = config
        self.splits = splits
        self.revision = revision
        self._check_overlap(splits or (), "splits")
        self._loaded: dict[str, Any] = {}

    def _datasets(self) -> Mapping[str, Any]:
        """The hub's splits, read once for all copies: they are mapped from disk, not held in memory."""
        if not self._loaded:
            import datasets

            try:
                self._loaded.update(datasets.load_dataset(self.name, self.config, revision=self.revision))
            except Exception as error:
                # Whatever goes wrong in there (network, name, access, a script), the user can only mend it outside.
                raise DataError(
                    f"dataset {self.name!r} must be readable from the hub, got {type(error).__name__}: {error}. Check "
                    "the name, `config`, `revision` and the network, or download it and use the `file` source."
                ) from error
        return self._loaded

    def _has(self, part: str) -> bool:
        if self.splits is not None and part not in self.splits:
            return False
        found = self._hub_split(part) in self._datasets()
        if not found and (self.splits is not None or part == "train"):
            raise DataError(
                f"dataset {self.name!r} must have the split {self._hub_split(part)!r}, got "
                f"{', '.join(map(repr, self._datasets()))}. Name them in `splits`."
            )
        return found

    def _hub_split(self, part: str) -> str:
        return part if self.splits is None else self.splits[part]

    def _rows(self, part: str) -> Iterator[tuple[str, int, Any, bool]]:
        name = self.name if self.config is None else f"{self.name}/{self.config}"
        for number, row in enumerate(self._datasets()[self._hub_split(part)], start=1):
            yield f"{name}[{self._hub_split(part)}]", number, row, False

    def _num_rows(self, part: str) -> int | None:
        return len(self._datasets()[self._hub_split(part)])
