"""Writes what `predict_step` returns to one file, in the order of the rows."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from lightning_rlhf.checkpoints.replacement import numbered
from lightning_rlhf.files import private

__all__ = ["PredictionWriter"]

_Key = tuple[int, ...]


class PredictionWriter(BasePredictionWriter):
    """Writes the dicts of `predict_step` as JSON lines to `<root>/predictions.jsonl`.

    Every rank writes a part; at the end rank 0 puts them into the order of the rows, once each. The file appears when
    it is whole. One that is there already is kept, under the next free number: `predictions-1.jsonl` is the oldest, the
    file without a number the newest.

    Args:
        file: name of the file in `trainer.default_root_dir`.
        overwrite: replace the file that is there.
        companion: name of a file that describes this one, and is kept under the same number.
    """

    def __init__(
        self, file: str = "predictions.jsonl", overwrite: bool = False, companion: str = "config-predict.yaml"
    ) -> None:
        super().__init__(write_interval="batch")
        self.file = file
        self.overwrite = overwrite
        self.companion = companion
        self.num_rows = 0
        """Rows in the file, once it is whole."""
        self._part: TextIO | None = None
        self._root = Path()
        self._writes = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Of a trial run (`fast_dev_run`) nothing is written."""
        self._writes = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Opens this rank's part."""
        if not self._writes:
            return
        self._root = Path(trainer.default_root_dir).absolute()
        path = self._part_path(trainer.global_rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = open(path, "w", encoding="utf-8", opener=private)  # noqa: SIM115 - for its mode

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Sequence[dict[str, Any]],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Adds the rows of a batch to the part, each with its place."""
        if self._part is None:
            return
        known = _row_ids(trainer, batch, batch_indices, batch_idx, dataloader_idx)
        places = _places(batch, known, len(prediction)) if known is not None else None
        if places is None or len(places) != len(prediction):
            turn = batch_idx * trainer.world_size + trainer.global_rank
            places = [(turn, row) for row in range(len(prediction))]
        for place, row in zip(places, prediction, strict=True):
            key = (dataloader_idx, *place)
            self._part.write(json.dumps([key, row], ensure_ascii=False, default=_plain) + "\n")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the parts together."""
        if self._part is None:
            return
        self._close()
        trainer.strategy.barrier("predictions are written")
        if not trainer.is_global_zero:
            return
        parts = [self._part_path(rank) for rank in range(trainer.world_size)]
        whole = self._part_path(trainer.world_size)
        with open(whole, "w", encoding="utf-8", opener=private) as file:
            self.num_rows = 0
            for row in _in_order(parts):
                file.write(row + "\n")
                self.num_rows += 1
        self._keep_earlier()
        whole.replace(self._root / self.file)
        for part in parts:
            part.unlink()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Takes this rank's part away."""
        if self._part is not None:
            with suppress(OSError):  # a full disk refuses what is still buffered, too
                self._close()
            self._part = None
            self._part_path(trainer.global_rank).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None

    def _keep_earlier(self) -> None:
        """Gives the file that is there a number, and what describes it the same one."""
        there, companion = self._root / self.file, self._root / self.companion
        if self.overwrite or not there.exists():
            return
        kept = there.rename(numbered(there))
        if companion.exists():
            companion.replace(companion.with_name(f"{companion.stem}-{kept.stem.rpartition('-')[2]}{companion.suffix}"))
        print(f"lightning-rlhf: the predictions that were in {self.file} are in {kept.name} now", file=sys.stderr)

    def _part_path(self, number: int) -> Path:
        return self._root / f".{self.file}.part-{number}"


def _row_ids(
    trainer: L.Trainer, batch: Any, batch_indices: Sequence[int] | None, batch_idx: int, dataloader_idx: int
) -> Sequence[int] | None:
    """The positions in the split of a batch's rows: from the batch, its loader or Lightning, whoever knows them."""
    if hasattr(batch, "row_ids"):
        ids: list[int] = batch.row_ids.tolist()
        return ids
    loaders = trainer.predict_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
    batches: Sequence[Sequence[int]] | None = getattr(loader, "batches", None)
    return batches[batch_idx] if batches is not None else batch_indices or None


def _places(batch: Any, row_ids: Sequence[int], num_predictions: int) -> list[_Key]:
    """The place of each prediction: its row, and among several candidates or samples of a row which one."""
    if not hasattr(batch, "candidate_mask"):
        number = num_predictions // len(row_ids) if len(row_ids) else 0
        return [(int(row), sample) for row in row_ids for sample in range(number)]
    numbers = batch.candidate_mask.sum(-1).tolist()
    return [(int(row), which) for row, number in zip(row_ids, numbers, strict=True) for which in range(number)]


def _in_order(parts: Iterable[Path]) -> Iterator[str]:
    """The rows of all parts by place; a place that two ranks had, to come to equally many batches, counts once."""
    rows: dict[_Key, str] = {}
    for part in parts:
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                key, row = json.loads(line)
                rows.setdefault(tuple(key), json.dumps(row, ensure_ascii=False))
    for key in sorted(rows):
        yield rows[key]


def _plain(value: Any) -> Any:
    """Tensors and arrays as numbers or lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a prediction must hold JSON values, got a {type(value).__name__}.")
