"""A row, how records become rows, and the count of what became of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lightning_rlhf.errors import RecordKindError
from lightning_rlhf.records import Demonstration, Prompt, Ranking, Record, Text

__all__ = ["Row", "Supervise", "Tally", "Tokenization"]

Row = dict[str, Any]
Supervise = Literal["all", "last"]

_READERS = {
    Text: "DemonstrationData (or the ptx_source of PromptData)",
    Demonstration: "DemonstrationData",
    Ranking: "RankingData",
    Prompt: "PromptData",
}


@dataclass
class Tally:
    """What became of a split's rows."""

    num_rows: int = 0
    """Rows stored."""
    num_skipped: int = 0
    """Bad rows left out (`on_bad_row: skip`)."""
    first_skipped: str = ""
    """What was wrong with the first of them, and where it stands."""
    num_truncated: int = 0
    """Records that were cut to the maximal length."""
    num_too_long: int = 0
    """Records that were left out because nothing of them could be learned within the maximal length."""
    num_split: int = 0
    """Records that became several rows."""
    num_records: int = 0
    """Records that were tokenized."""
    num_tokens: int = 0
    """Tokens of the records as they were."""
    num_kept_tokens: int = 0
    """Those of them that are in a row."""
    num_targets: int = 0
    """Learned tokens of the records as they were; of a ranking, the tokens of its responses."""
    num_kept_targets: int = 0
    """Those of them that are in a row, and learned."""
    num_unordered: int = 0
    """Rankings without an ordered pair: all candidates tie, or fewer than two are ranked."""
    longest: int = 0
    """Tokens of the longest row: what the model must have positions for."""
    num_margins: int = 0
    """Rankings with a margin of their own."""
    unread_fields: dict[str, int] = field(default_factory=dict)
    """Fields of rows that nothing reads, and how many rows have them, where the source tells."""
    greatest_id: int = 0
    """Of all tokens: what the model must have embeddings for."""
    columns_left_out: list[str] = field(default_factory=list)
    """Columns of prompts that hold bytes, which reward functions are not given."""

    def count(self, tokens: int, kept_tokens: int, targets: int = 0, kept_targets: int = 0) -> None:
        """Counts a record whose rows hold all of its tokens, some of them, or none."""
        self.num_records += 1
        self.num_tokens += tokens
        self.num_kept_tokens += min(kept_tokens, tokens)
        self.num_targets += targets
        self.num_kept_targets += kept_targets
        self.num_truncated += 0 < kept_tokens < tokens or (kept_targets < targets and kept_tokens > 0)
        self.num_too_long += not kept_tokens

    @property
    def losses(self) -> str:
        """How much of the tokens truncation left, in words; empty where it took none."""
        if self.num_kept_tokens == self.num_tokens and self.num_kept_targets == self.num_targets:
            return ""
        kept = f"{self.num_kept_tokens / self.num_tokens:.1%} of {self.num_tokens} tokens are kept"
        if not self.num_targets:
            return kept
        return f"{kept}, {self.num_kept_targets / self.num_targets:.1%} of {self.num_targets} learned ones"


class Tokenization:
    """How records of a kind become rows."""

    features: ClassVar[Mapping[str, str]]
    """The type of each column as Arrow names it, `[]` for a list of them."""
    count_names: ClassVar[tuple[str, ...]] = ()
    """Integer columns that are summed over an accumulation window and handed out with each batch."""
    reads: ClassVar[tuple[type[Record], ...]]
    """The kinds of record, the first of them what the source's rows are meant to be."""

    def rows(self, record: Record, tally: Tally) -> Iterator[Row]:
        """The rows of one record.

        Raises:
            RecordError: it is a bad row.
            DataError: another data module reads this kind of record.
        """
        raise self.misfit(record)

    def length(self, row: Row) -> int:
        """How many positions of a model a row takes."""
        return len(row["prompt_ids"]) + max((len(response) for response in row.get("responses", ())), default=0)

    def misfit(self, record: object) -> RecordKindError:
        """The error for a kind of record that this does not read."""
        found = type(record).__name__
        reader = next((reader for kind, reader in _READERS.items() if isinstance(record, kind)), None)
        hint = f"{reader} reads those." if reader else "A source yields records of one kind."
        return RecordKindError(f"{self.subject} must read {self.kinds}, got a record of the class {found}. {hint}")

    subject: ClassVar[str]
    kinds: ClassVar[str]
