"""What the data modules share: template, tokenized splits, loaders."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_rlhf.arguments import require_at_least, require_one_of
from lightning_rlhf.checkpoints.changed_arguments import is_in_epoch
from lightning_rlhf.data.loading import BatchLoader, WindowLoader
from lightning_rlhf.data.row_cache import folder_name, provide_rows
from lightning_rlhf.data.rows import PromptRows, Row, Tally, Tokenization
from lightning_rlhf.data.sampling import EpochSampler, heldout_batches
from lightning_rlhf.data.storage import (
    OnBadRow,
    StoredRows,
    cache_folder,
    shown_rows,
    source_name,
    tokenized_rows,
)
from lightning_rlhf.data.template_choice import choose_template
from lightning_rlhf.data.template_faults import require_sound_template
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import ConfigError, DataError
from lightning_rlhf.plugin_system.interfaces import DataSource, PromptTemplate
from lightning_rlhf.plugin_system.provenance import components_among
from lightning_rlhf.records import Record

__all__ = ["RLHFData"]

_MANY_LOST = 0.05
"""Share of a split's records that may be left out as too long without a warning."""


class RLHFData(L.LightningDataModule, ABC):
    """Base of the data modules. Rows are tokenized when a loader first asks for them: then the model is there.

    Args:
        source: where the rows come from: a dataset component.
        template: how a dialogue becomes text: a prompt template component; default: what the model's directory
            records, else plain.
        batch_size: rows per batch and rank.
        max_length: tokens per row at most.
        on_bad_row: error stops at the first bad row, skip leaves bad rows out and counts them.
        num_workers: processes that load batches ahead; 0 loads in the main process.
    """

    def __init__(
        self,
        *,
        source: DataSource,
        template: PromptTemplate | None,
        batch_size: int,
        max_length: int,
        on_bad_row: OnBadRow,
        num_workers: int,
    ) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size)
        require_at_least(2, max_length=max_length)
        require_at_least(0, num_workers=num_workers)
        require_one_of(OnBadRow, "on_bad_row", on_bad_row)
        # not `save_hyperparameters`: component objects cannot stand in a checkpoint that loads with weights_only
        self.source = source
        self.template = template
        self.batch_size = batch_size
        self.max_length = max_length
        self.on_bad_row: OnBadRow = on_bad_row
        self.num_workers = num_workers
        self._formatter: PromptFormatter | None = None
        self._stored: dict[str, StoredRows] = {}
        self._limit_val_batches: float | None = None
        self._moment: datetime | None = None
        self._expected: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Turns validation off for a fit whose source has no validation rows, and says so."""
        trainer = self._trainer
        if stage != "fit" or not trainer.limit_val_batches:
            return
        records = self.records("validation")
        if any(True for _ in records):
            return
        if why := getattr(records, "nothing_held_out", ""):
            rank_zero_warn(f"{source_name(self.source)}: {why}")
        # a loader of length zero would have Lightning warn, and log the nan of an empty mean
        rank_zero_info(f"{source_name(self.source)} has no validation rows: this run does not validate.")
        self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def teardown(self, stage: str) -> None:
        """Leaves the Trainer as it was."""
        if self._limit_val_batches is not None and self.trainer is not None:
            self.trainer.limit_val_batches = self._limit_val_batches
        self._limit_val_batches = None

    @property
    def formatter(self) -> PromptFormatter:
        """The template of this run, bound to the model's tokenizer."""
        tokenizer = self._module.tokenizer
        made = self._formatter
        if made is None or made.tokenizer is not tokenizer or made.moment != self._moment:
            recorded = self._module.recorded_template
            template = choose_template(self.template, recorded, tokenizer)
            made = self._formatter = PromptFormatter(template, tokenizer, self._moment)
        return made

    @property
    def moment(self) -> datetime | None:
        """When the run began, for templates that write a date; None: it has not."""
        return self._moment

    @moment.setter
    def moment(self, moment: datetime) -> None:
        if moment != self._moment:
            self._stored = {}
        self._moment = moment

    @property
    def row_fingerprints(self) -> dict[str, str]:
        """Of the rows of each split that was read so far, as they were tokenized."""
        return {label: shown_rows(rows) for label, rows in self._stored.items()}

    def expect_rows(self, fingerprints: Mapping[str, str]) -> None:
        """Has other rows than these be warned of when they are read; the loader refuses them in mid-epoch.

        Args:
            fingerprints: by split, of the run that goes on.
        """
        self._expected = dict(fingerprints)

    @property
    def components(self) -> list[object]:
        """The components that this run's data passes through, a template that the model recorded among them."""
        return components_among([*vars(self).values(), *([] if self.trainer is None else [self.formatter.template])])

    @property
    def tallies(self) -> dict[str, Tally]:
        """What became of the rows of each split that was read so far: stored, skipped, cut, without an ordered pair."""
        return {name: stored.tally for name, stored in self._stored.items()}

    kinds: ClassVar[tuple[type[Record], ...]]
    """The kinds of record that this module reads; the source is told."""

    def records(self, split: str) -> Iterable[Record]:
        """The records of a split as this module reads them."""
        return self.source.for_kinds(self.kinds).load(split)

    @property
    @abstractmethod
    def tokenization(self) -> Tokenization:
        """What makes rows for training of a record."""

    def arrange(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Rearranges the stream of rows, as packing does; here it stays as it is."""
        return rows

    def stream(self, split: str, tally: Tally, *, on_bad_row: OnBadRow | None = None) -> Iterator[Row]:
        """The rows of a split as training would store them, one after the other; nothing is written.

        Args:
            split: train, validation or test.
            tally: counts what is left out or cut, as far as was read.
            on_bad_row: default: the module's own.

        Raises:
            DataError: the source cannot be read, or a row is bad.
        """
        rows = tokenized_rows(self.source, split, self.tokenization, on_bad_row or self.on_bad_row, tally)
        return iter(self.arrange(rows))

    # What a data module gives to its base

    def stored(
        self,
        split: str,
        tokenization: Tokenization,
        *,
        source: DataSource | None = None,
        label: str | None = None,
        arrange: Callable[[Iterable[Row]], Iterable[Row]] = iter,
    ) -> StoredRows:
        """A tokenized split: written once per node by its first process, then opened by all.

        Args:
            split: train, validation or test.
            tokenization: what makes rows of a record.
            source: default: the module's own.
            label: a name for it in reports, where the split alone does not say it.
            arrange: rearranges the stream of rows.

        Raises:
            DataError: the source cannot be read, or a row does not fit the model's positions.
            TemplateError: the template has a fault that doctor fails.
        """
        label = label or split
        if label not in self._stored:
            require_sound_template(self.formatter)
            source = source or self.source
            folder = self._folder(label)
            error: Exception | None = None
            if self._trainer.local_rank == 0:
                try:
                    provide_rows(
                        folder,
                        self,
                        source,
                        split,
                        tokenization,
                        on_bad_row=self.on_bad_row,
                        arrange=arrange,
                        packing=bool(getattr(self, "packing", False)),
                    )
                except Exception as found:
                    error = found
            # every rank takes part, so that none waits for one that failed
            all_well = self._trainer.strategy.reduce_boolean_decision(error is None)
            message = self._trainer.strategy.broadcast("" if error is None else str(error))
            if error is not None:
                raise error
            if not all_well:
                raise DataError(f"the rows must be readable in every process, got an error in another. {message}")
            rows = StoredRows(folder)
            self._check_ids(rows.tally.greatest_id, label, source)
            if not isinstance(tokenization, PromptRows):  # how long an answer may follow, the module knows
                self._check_positions(rows.tally.longest, label, source)
            self._stored[label] = rows
            self._compare(label, source)
            _report(rows.tally, label, source)
        return self._stored[label]

    def training_loader(
        self,
        rows: StoredRows,
        tokenization: Tokenization,
        collate: Callable[[Sequence[Any]], Any],
        *,
        group_by: str | None = None,
    ) -> WindowLoader:
        """The shuffled loader of a training split.

        Args:
            rows: the split.
            tokenization: what made its rows.
            collate: rows to a batch.
            group_by: column of numbers by which rows are put into batches of their like; None: by chance.

        Raises:
            DataError: there is no row.
        """
        self.require_rows(rows, "train")
        trainer = self._trainer
        rank, num_ranks = self._shard
        sampler = EpochSampler(
            len(rows),
            self.batch_size,
            seed=self._module.seed,
            rank=rank,
            num_ranks=num_ranks,
            shuffle=not trainer.overfit_batches,  # type: ignore[attr-defined]
            lengths=None if group_by is None else rows.counts(group_by),
        )
        return WindowLoader(
            rows,
            sampler,
            collate,
            count_names=tokenization.count_names,
            window=lambda: trainer.accumulate_grad_batches,
            limit=lambda: trainer.num_training_batches,
            is_in_epoch=lambda: is_in_epoch(trainer),
            num_workers=self.num_workers,
        )

    def heldout_loader(self, rows: Any, collate: Callable[[Sequence[Any]], Any], split: str) -> BatchLoader:
        """Every row of a split exactly once over all ranks.

        Raises:
            DataError: there is no row, or there are fewer rows than ranks.
        """
        self.require_rows(rows, split)
        rank, num_ranks = self._shard
        if len(rows) < num_ranks:
            raise DataError(
                f"the {split} split must hold at least one row per rank ({num_ranks}), got {len(rows)}. Hold out more "
                "rows or use fewer devices."
            )
        batches = heldout_batches(len(rows), self.batch_size, rank=rank, num_ranks=num_ranks)
        return BatchLoader(rows, batches, collate, self.num_workers)

    def require_rows(self, rows: Any, split: str, source: DataSource | None = None) -> None:
        """Raises `DataError` unless there is a row."""
        if not len(rows):
            raise DataError(
                f"the {split} split of {source_name(source or self.source)} must hold at least one usable row, got "
                "none. Check its path and its fractions, and the counts of rows that were left out."
            )

    def predicted_split(self, stored: Callable[[str], Any]) -> tuple[str, Any]:
        """What `predict` reads: the test split, else the validation split, else the training split."""
        split, rows = "test", stored("test")
        for fallback in ("validation", "train"):
            if not len(rows):
                split, rows = fallback, stored(fallback)
        self.require_rows(rows, split)
        rank_zero_info(f"predict reads the {split} split of {source_name(self.source)}: {len(rows)} rows.")
        return split, rows

    # Surroundings

    _NO_TRAINER: ClassVar[str] = (
        "a data module must be attached to a Trainer before its loaders are used, got none. Pass it to `fit`, "
        "`validate`, `test` or `predict`."
    )

    @property
    def _trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise ConfigError(self._NO_TRAINER)
        return self.trainer

    @property
    def _module(self) -> Any:
        module = self._trainer.lightning_module
        if not hasattr(module, "tokenizer"):
            raise ConfigError(
                f"{type(self).__name__} must be used with an RLHFModule, which has the tokenizer, got "
                f"{type(module).__name__}."
            )
        return module

    def _check_ids(self, greatest: int, label: str, source: DataSource) -> None:
        """Refuses tokens without an embedding; those that stand in no row, and at no end of one, are no fault."""
        number: int | None = getattr(self._module, "num_embeddings", None)
        ids = max(greatest, min(self.formatter.stop_ids))
        if number is not None and ids >= number:
            token = self.formatter.tokenizer.convert_ids_to_tokens(ids)
            raise DataError(
                f"the tokens of {source_name(source)}, {label}, must be among the {number} that the model embeds, got "
                f"{token!r} with the id {ids}. Resize the model's embeddings to its tokenizer, or take the token out "
                "of the tokenizer and the template."
            )

    def _compare(self, label: str, source: DataSource) -> None:
        before, now = self._expected.pop(label, None), self.row_fingerprints[label]
        if before is not None and before != now:
            rank_zero_warn(
                f"the rows of {source_name(source)}, {label}, are not those of the run that wrote the checkpoint: "
                f"{before} -> {now}."
            )

    def _check_positions(self, longest: int, label: str, source: DataSource) -> None:
        positions: int | None = getattr(self._module, "max_positions", None)
        if positions is not None and longest > positions:
            raise DataError(
                f"the rows of {source_name(source)}, {label}, must fit the model's {positions} positions, got one of "
                f"{longest} tokens. Set max_length to {positions} or less: longer rows are then cut."
            )

    @property
    def _shard(self) -> tuple[int, int]:
        """This rank among those that see different rows, and how many those are."""
        kwargs = getattr(self._trainer.strategy, "distributed_sampler_kwargs", None) or {}
        num_ranks = kwargs.get("num_replicas", self._trainer.world_size)
        return int(kwargs.get("rank", self._trainer.global_rank)), int(num_ranks)

    def _folder(self, label: str) -> Path:
        """A fresh folder per node, the same for all its processes."""
        token = self._trainer.strategy.broadcast(uuid.uuid4().hex)
        return cache_folder() / folder_name(self._trainer.default_root_dir, label, self._trainer.node_rank, token)


def _report(tally: Tally, label: str, source: DataSource) -> None:
    """What became of a split, in one line."""
    left_out = [
        f"{number} {what}"
        for number, what in (
            (tally.num_skipped, f"bad rows skipped (the first: {tally.first_skipped.rstrip('.')})"),
            (tally.num_unordered, "rankings without an ordered pair"),
            (tally.num_truncated, "cut to the maximal length"),
            (tally.num_too_long, "left out as too long"),
            (tally.num_split, "that became several rows"),
        )
        if number
    ]
    if tally.num_rows or left_out:
        losses = f"; {tally.losses}" if tally.losses else ""
        line = f"{source_name(source)}, {label}: {', '.join([f'{tally.num_rows} rows', *left_out])}{losses}."
        many_lost = tally.num_too_long > _MANY_LOST * tally.num_records
        (rank_zero_warn if tally.num_skipped or many_lost else rank_zero_info)(line)
    if tally.columns_left_out:
        rank_zero_warn(
            f"{source_name(source)}, {label}: columns of a prompt must hold values that JSON has, got bytes in "
            f"{', '.join(map(repr, tally.columns_left_out))}. They are left out: reward functions do not get them."
        )
