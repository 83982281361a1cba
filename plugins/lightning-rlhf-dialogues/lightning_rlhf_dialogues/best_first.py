"""Lists of answers that somebody has put in order."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning_rlhf.builtins.files import FileFormat, NumberedRow, read_rows
from lightning_rlhf.builtins.splitting import assigned_split
from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Message, Ranking, Record, Text
from lightning_rlhf_dialogues.fields import is_there, list_of, mapping_of, shown, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["BestFirst"]

_ANSWERS = ("responses", "answers", "completions")


class BestFirst(LayoutSource):
    """K answers per prompt, the best first: a tab-separated line, or a JSON list.

    A row may also be an object, `{prompt, responses}`. K may differ from row to row; empty cells at the end of a
    tab-separated line are no answers. Answers without a prompt are ranked as responses to an empty one, and are split
    by a hash of the best of them.

    Args:
        path: a file (.tsv or .txt with tab-separated lines, .jsonl or .json with lists, plain or .gz), a folder of
            files, a list of these, or files per split.
        val_fraction: share of the prompts to hold out for validation, chosen by a hash of the prompt.
        test_fraction: share of the prompts to hold out for testing.
        prompt_first: the first entry of a list is the prompt, and the answers follow it.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("best_first.tsv")}
    suffixes: ClassVar[tuple[str, ...]] = (".tsv", ".txt", ".jsonl", ".json", ".parquet")

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        prompt_first: bool = False,
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.prompt_first = prompt_first

    def file_format(self, file: Path) -> FileFormat:
        """Tab-separated lines are lines of text: a quotation mark in an answer is one."""
        return "text" if file.name.lower().removesuffix(".gz").endswith(".tsv") else super().file_format(file)

    def rows(self, file: Path) -> Iterator[NumberedRow]:
        """Lists, and objects."""
        if self.file_format(file) != "text":
            yield from super().rows(file)
            return
        for number, row in read_rows(file, "text"):
            yield number, row if isinstance(row, RecordError) else row["text"].rstrip("\t").split("\t")

    def records(self, row: Any) -> Iterator[Record]:
        """The ranking of a row."""
        prompt, answers = self._parts(row)
        if not all(isinstance(answer, str) for answer in answers):
            raise RecordError(f"every answer must be a string, got {shown(list(answers))}.")
        if len(answers) < 2:
            hint = " The first entry is the prompt (prompt_first)." if self.prompt_first else ""
            raise RecordError(f"a row must hold at least two answers, the best first, got {len(answers)}.{hint}")
        yield Ranking((Message("user", prompt),), tuple(answers), (tuple(range(len(answers))),))

    def split_of(self, record: Record) -> str:
        """By the prompt; where there is none, the answers are on sides of their own."""
        if isinstance(record, Ranking) and not any(message.content for message in record.prompt):
            record = Text(hashlib.sha256(record.responses[0].encode("utf-8", "surrogatepass")).hexdigest())
        return assigned_split(record, self.val_fraction, self.test_fraction)

    def _parts(self, row: Any) -> tuple[str, Sequence[Any]]:
        if isinstance(row, Mapping):
            fields = mapping_of(row, "a row")
            name = next((name for name in _ANSWERS if is_there(fields, name)), _ANSWERS[0])
            return text_of(fields, "prompt", default=""), list_of(fields.get(name), f"field '{name}'")
        entries = list_of(row, "a row")
        if not self.prompt_first:
            return "", entries
        if not entries or not isinstance(entries[0], str):
            raise RecordError(f"the first entry of a row must be the prompt (prompt_first), got {shown(entries)}.")
        return entries[0], entries[1:]
