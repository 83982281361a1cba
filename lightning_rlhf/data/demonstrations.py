"""Demonstrations and plain text for supervised fine-tuning."""

from collections.abc import Iterable

from lightning_rlhf.arguments import require_one_of
from lightning_rlhf.data.candidates import CandidateRows
from lightning_rlhf.data.collation import collate_demonstrations, collate_packed, collate_rankings
from lightning_rlhf.data.loading import BatchLoader, WindowLoader
from lightning_rlhf.data.module import RLHFData
from lightning_rlhf.data.packing import packed
from lightning_rlhf.data.prompts import PromptDataset
from lightning_rlhf.data.rows import DemonstrationRows, PromptRows, Row, Supervise
from lightning_rlhf.data.storage import OnBadRow, StoredRows
from lightning_rlhf.data.truncation import DocumentTruncation, Truncation
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.interfaces import DataSource, PromptTemplate

__all__ = ["DemonstrationData"]


class DemonstrationData(RLHFData):
    """Demonstrations, or plain text to continue pretraining on. For SFTModule.

    In a demonstration the assistant's turns are learned, in a text every token but the first.

    Args:
        source: where the rows come from: a dataset component that yields demonstrations or texts.
        template: how a dialogue becomes text: a prompt template component; default: what the model's directory
            records, else plain.
        batch_size: rows per batch and rank.
        max_length: tokens per row at most.
        on_bad_row: error stops at the first bad row, skip leaves bad rows out and counts them.
        packing: put several rows after each other into one of max_length; they do not see each other.
        supervise: learn all assistant turns of a dialogue, or the last one only.
        group_by_length: put rows of similar length into the same batch, which spares padding; who shares a batch is
            then less a matter of chance.
        truncation: what goes of a row that is longer than max_length. turns: the oldest turns with their answers; the
            system message stays, and half an answer is never learned: a row whose last answer does not fit is left
            out, and a long text becomes several rows. left: the beginning of the row; an answer that lost its own
            is not learned. right: the end of the row; an answer that is cut gets no stop token. drop: the row. window:
            nothing, the row becomes several pieces. What was lost is reported in tokens and in learned tokens.
        num_workers: processes that load batches ahead; 0 loads in the main process.
    """

    kinds = DemonstrationRows.reads

    def __init__(
        self,
        source: DataSource,
        template: PromptTemplate | None = None,
        batch_size: int = 8,
        max_length: int = 512,
        on_bad_row: OnBadRow = "error",
        packing: bool = False,
        supervise: Supervise = "all",
        group_by_length: bool = False,
        truncation: DocumentTruncation = "turns",
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            source=source,
            template=template,
            batch_size=batch_size,
            max_length=max_length,
            on_bad_row=on_bad_row,
            num_workers=num_workers,
        )
        require_one_of(Supervise, "supervise", supervise)
        require_one_of(DocumentTruncation, "truncation", truncation)
        self.truncation: DocumentTruncation = truncation
        if packing and group_by_length:
            raise ConfigError("group_by_length must be false with packing, got true: packed rows are of one length.")
        self.packing = packing
        self.group_by_length = group_by_length
        self.supervise: Supervise = supervise
        self._collate = collate_packed if packing else collate_demonstrations

    @property
    def tokenization(self) -> DemonstrationRows:
        """Ids, and which of them are learned."""
        return DemonstrationRows(self.formatter, self.max_length, self.supervise, self.truncation)

    def arrange(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Joins short rows where `packing` says so."""
        return packed(rows, self.max_length) if self.packing else rows

    def _rows(self, split: str) -> StoredRows:
        return self.stored(split, self.tokenization, arrange=self.arrange)

    def train_dataloader(self) -> WindowLoader:
        """Shuffled batches with the denominators of their accumulation window."""
        group_by = "num_tokens" if self.group_by_length else None
        return self.training_loader(self._rows("train"), self.tokenization, self._collate, group_by=group_by)

    def val_dataloader(self) -> BatchLoader:
        """The validation split in its order."""
        return self._heldout("validation")

    def test_dataloader(self) -> BatchLoader:
        """The test split in its order."""
        return self._heldout("test")

    def predict_dataloader(self) -> BatchLoader:
        """The demonstrations' prompts, to be answered: of the test, else the validation, else the training split.

        To a reward model the demonstrations themselves, to be scored.
        """
        truncation: Truncation = "turns" if self.truncation == "window" else self.truncation

        def prompts(split: str) -> StoredRows:
            return self.stored(split, PromptRows(self.formatter, self.max_length, truncation), label=f"{split} prompts")

        def responses(split: str) -> StoredRows:
            from lightning_rlhf.builtins.converters import LinearConverter

            rows = CandidateRows(self.formatter, self.max_length, LinearConverter(), truncation=truncation)
            return self.stored(split, rows, label=f"{split} responses")

        if getattr(self._module, "scores_responses", False):
            split, rows = self.predicted_split(responses)
            return self.heldout_loader(rows, collate_rankings, split)

        split, rows = self.predicted_split(prompts)
        dataset = PromptDataset(rows, self.batch_size)
        return self.heldout_loader(dataset, dataset.collate, split)

    def _heldout(self, split: str) -> BatchLoader:
        return self.heldout_loader(self._rows(split), self._collate, split)
