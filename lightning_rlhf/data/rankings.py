"""Rankings for reward models."""

from lightning_rlhf.arguments import require_one_of
from lightning_rlhf.data.candidates import CandidateRows
from lightning_rlhf.data.collation import collate_rankings
from lightning_rlhf.data.loading import BatchLoader, WindowLoader
from lightning_rlhf.data.module import RLHFData
from lightning_rlhf.data.rows import RankingRows, Tally
from lightning_rlhf.data.storage import OnBadRow, StoredRows, source_name
from lightning_rlhf.data.truncation import Truncation
from lightning_rlhf.errors import DataError
from lightning_rlhf.plugin_system.interfaces import DataSource, PromptTemplate, RankingConverter

__all__ = ["RankingData"]


class RankingData(RLHFData):
    """Rankings of K responses to a prompt, by one annotator or several. For RewardModule.

    The converter makes one reward per candidate of all annotators' ranks; the candidates' order is that of the rewards.
    Candidates that nobody ranked are left out, and so are rankings whose candidates all tie, which are counted.

    Args:
        source: where the rows come from: a dataset component that yields rankings.
        template: how a dialogue becomes text: a prompt template component; default: what the model's directory
            records, else plain.
        batch_size: prompts per batch and rank; each is as many forward rows as it has candidates.
        max_length: tokens of a prompt with one response at most.
        on_bad_row: error stops at the first bad row, skip leaves bad rows out and counts them.
        converter: how ranks become rewards: a ranking converter component; default: linear. The regression loss takes a
            row's own scores instead where it has them.
        truncation: what goes of a ranking that is longer than max_length with its longest response; the prompt stays
            the same for all. turns: the oldest turns of the prompt with their answers; the system message stays, and a
            response that does not fit whole is left out, with the ranking where no two are left to compare. left: the
            beginning of the prompt. right: the end of each response that is too long, which then has no stop token, and
            the beginning of a prompt beyond half of max_length. drop: the ranking. What was lost is reported in tokens.
            Nothing is left out where all is to be scored.
        num_workers: processes that load batches ahead; 0 loads in the main process.
    """

    kinds = RankingRows.reads

    def __init__(
        self,
        source: DataSource,
        template: PromptTemplate | None = None,
        batch_size: int = 8,
        max_length: int = 512,
        on_bad_row: OnBadRow = "error",
        converter: RankingConverter | None = None,
        truncation: Truncation = "turns",
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
        require_one_of(Truncation, "truncation", truncation)
        self.truncation: Truncation = truncation
        if converter is None:
            from lightning_rlhf.builtins.converters import LinearConverter

            converter = LinearConverter()
        self.converter = converter

    @property
    def tokenization(self) -> RankingRows:
        """Ids of prompts and candidates, ranks and rewards."""
        return RankingRows(self.formatter, self.max_length, self.converter, truncation=self.truncation)

    def _rows(self, split: str) -> StoredRows:
        return self.stored(split, self.tokenization)

    def train_dataloader(self) -> WindowLoader:
        """Shuffled batches with the number of prompts in their accumulation window."""
        rows = self._rows("train")
        if (fault := self.margin_fault(rows.tally)) is not None:
            raise DataError(
                f"the rows of {source_name(self.source)} must have the margins that are learned, got {fault}"
            )
        return self.training_loader(rows, self.tokenization, collate_rankings)

    def margin_fault(self, tally: Tally) -> str | None:
        """What is wrong, and what to do, where rows have margins of their own that the module would not learn."""
        if not tally.num_margins or getattr(self._module, "margin_scale", True):
            return None
        return (
            f"{tally.num_margins} with a field 'margin' and a margin_scale of 0. Set --model.margin_scale 1 (and the "
            "loss pairwise) to learn each row's own margin, or leave the field out with `columns: {unused: margin}`."
        )

    def unshuffled_train_dataloader(self) -> BatchLoader:
        """Every ranking of the training split once: what scores are centred on."""
        return self.heldout_loader(self._rows("train"), collate_rankings, "train")

    def val_dataloader(self) -> BatchLoader:
        """The validation split in its order."""
        return self._heldout("validation")

    def test_dataloader(self) -> BatchLoader:
        """The test split in its order."""
        return self._heldout("test")

    def predict_dataloader(self) -> BatchLoader:
        """All candidates, ranked or not, to be scored: of the test, else the validation, else the training split.

        Rows of a prompt and one response are scored as well.
        """

        def candidates(split: str) -> StoredRows:
            rows = CandidateRows(self.formatter, self.max_length, self.converter, truncation=self.truncation)
            return self.stored(split, rows, label=f"{split} candidates")

        split, rows = self.predicted_split(candidates)
        return self.heldout_loader(rows, collate_rankings, split)

    def _heldout(self, split: str) -> BatchLoader:
        return self.heldout_loader(self._rows(split), collate_rankings, split)
