"""Prompts for PPO, and the pretraining rows of its ptx term."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning_rlhf.arguments import require_at_least, require_one_of
from lightning_rlhf.batches import DemonstrationBatch, PromptBatch
from lightning_rlhf.data.collation import collate_demonstrations, collate_prompts
from lightning_rlhf.data.loading import BatchLoader
from lightning_rlhf.data.module import RLHFData
from lightning_rlhf.data.rows import DemonstrationRows, PromptRows
from lightning_rlhf.data.sampling import row_order
from lightning_rlhf.data.storage import OnBadRow, StoredRows
from lightning_rlhf.data.truncation import Truncation
from lightning_rlhf.plugin_system.interfaces import DataSource, PromptTemplate

__all__ = ["PromptData", "PromptDataset", "PtxBatches"]


class PromptDataset:
    """Tokenized prompts by position.

    Args:
        rows: what `PromptRows` stored.
        batch_size: how many prompts are sampled or scored at a time: memory only.
    """

    def __init__(self, rows: StoredRows, batch_size: int) -> None:
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
        """Rows with their positions: what torch's DataLoader asks for."""
        return list(zip(positions, self.rows.__getitems__(positions), strict=True))

    def batch(self, row_ids: Sequence[int]) -> PromptBatch:
        """Some prompts, in the order of `row_ids`.

        Args:
            row_ids: positions in the split.
        """
        return self.collate(self.__getitems__(row_ids))

    @staticmethod
    def collate(items: Sequence[tuple[int, dict[str, Any]]]) -> PromptBatch:
        """Rows with their positions to a batch."""
        return collate_prompts([row for _, row in items], [position for position, _ in items])


class PtxBatches:
    """Pretraining rows by training step: nothing is kept between calls, so that a resumed run takes the same rows.

    The rows are walked through again and again, in a fresh order each time; ranks take neighbouring places.

    Args:
        rows: what `DemonstrationRows` stored.
        seed: the run's seed.
        rank: this rank.
        num_ranks: ranks that see different rows.
    """

    def __init__(self, rows: StoredRows, *, seed: int, rank: int = 0, num_ranks: int = 1) -> None:
        self.rows = rows
        self._seed = seed
        self._rank = rank
        self._num_ranks = num_ranks

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, num_rows: int) -> DemonstrationBatch:
        """The rows of one step on this rank. The counts are this batch's own.

        Args:
            step: number of the training step, counted over the whole run.
            num_rows: rows per step and rank; the same at every step.
        """
        start = (step * self._num_ranks + self._rank) * num_rows
        places = [divmod(place, len(self.rows)) for place in range(start, start + num_rows)]
        row_ids = [int(row_order(self._seed, "ptx", epoch, len(self.rows))[place]) for epoch, place in places]
        return collate_demonstrations(self.rows.__getitems__(row_ids))


class PromptData(RLHFData):
    """Prompts for the policy to answer. For PPOModule.

    Reads prompts; demonstrations, whose last response becomes the column `response`; rankings, of which only the prompt
    is used. All fields of a prompt row but the prompt itself reach reward functions as columns.

    Args:
        source: where the rows come from: a dataset component that yields prompts.
        template: how a dialogue becomes text: a prompt template component; default: what the model's directory
            records, else plain.
        batch_size: how many prompts are sampled or scored at a time: memory only, the samples do not depend on it.
        max_length: tokens per row of ptx_source at most.
        on_bad_row: error stops at the first bad row, skip leaves bad rows out and counts them.
        max_prompt_length: tokens per prompt at most.
        ptx_source: rows for PPO's pretraining term, which PPOModule's ptx_coef weighs: a dataset component that yields
            demonstrations or texts.
        truncation: what goes of a prompt that is longer than max_prompt_length. turns: the oldest turns with their
            answers; the system message stays, and the last question may lose the beginning of its text. left: the
            beginning of the prompt. right: the end of the last turn's text. drop: the prompt. Rows of ptx_source are
            cut in the same manner, as in DemonstrationData. What was lost is reported in tokens.
        num_workers: processes that load batches ahead in validation; 0 loads in the main process.
    """

    kinds = PromptRows.reads

    def __init__(
        self,
        source: DataSource,
        template: PromptTemplate | None = None,
        batch_size: int = 8,
        max_length: int = 512,
        on_bad_row: OnBadRow = "error",
        max_prompt_length: int = 256,
        ptx_source: DataSource | None = None,
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
        require_at_least(1, max_prompt_length=max_prompt_length)
        require_one_of(Truncation, "truncation", truncation)
        self.truncation: Truncation = truncation
        self.max_prompt_length = max_prompt_length
        self.ptx_source = ptx_source

    @property
    def tokenization(self) -> PromptRows:
        """Ids and text of prompts, and the rows' other fields."""
        return PromptRows(self.formatter, self.max_prompt_length, self.truncation)

    def prompts(self, split: str) -> PromptDataset:
        """The prompts of a split."""
        return PromptDataset(self.stored(split, self.tokenization), self.batch_size)

    @property
    def ptx_tokenization(self) -> DemonstrationRows:
        """Ids of the pretraining term's rows, and which of them are learned."""
        return DemonstrationRows(self.formatter, self.max_length, truncation=self.truncation)

    def ptx_batches(self) -> PtxBatches | None:
        """The rows of the pretraining term; None without `ptx_source`."""
        if self.ptx_source is None:
            return None
        rows = self.stored("train", self.ptx_tokenization, source=self.ptx_source, label="ptx")
        self.require_rows(rows, "train", self.ptx_source)
        rank, num_ranks = self._shard
        return PtxBatches(rows, seed=self._module.seed, rank=rank, num_ranks=num_ranks)

    def train_dataloader(self) -> Iterable[Any]:
        """The module's rollout loader over the training prompts."""
        prompts = self.prompts("train")
        self.require_rows(prompts, "train")
        loader: Iterable[Any] = self._module.rollout_loader(prompts)
        return loader

    def val_dataloader(self) -> BatchLoader:
        """The validation prompts in their order."""
        return self._heldout("validation")

    def test_dataloader(self) -> BatchLoader:
        """The test prompts in their order."""
        return self._heldout("test")

    def predict_dataloader(self) -> BatchLoader:
        """Prompts to be answered: of the test, else the validation, else the training split."""
        split, prompts = self.predicted_split(self.prompts)
        return self.heldout_loader(prompts, prompts.collate, split)

    def _heldout(self, split: str) -> BatchLoader:
        prompts = self.prompts(split)
        return self.heldout_loader(prompts, prompts.collate, split)
