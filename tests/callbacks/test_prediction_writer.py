import json
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightning_rlhf.callbacks.prediction_writer import PredictionWriter


class Rows(NamedTuple):
    row_ids: torch.Tensor


class Candidates(NamedTuple):
    candidate_mask: torch.Tensor


def trainer(root, rank=0, world_size=1, batches=None):
    """What the writer reads of a trainer."""
    return SimpleNamespace(
        default_root_dir=str(root),
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        predict_dataloaders=SimpleNamespace(batches=batches),
        strategy=SimpleNamespace(barrier=lambda name: None),
    )


def write(writer, of, batches):
    writer.on_predict_start(of, None)
    for index, (rows, batch) in enumerate(batches):
        writer.write_on_batch_end(of, None, rows, None, batch, index, 0)


def written(root):
    return [json.loads(line) for line in (root / "predictions.jsonl").read_text().splitlines()]


def test_the_rows_of_all_ranks_stand_in_the_order_of_the_split(tmp_path):
    ranks = [trainer(tmp_path, rank, 2) for rank in range(2)]
    writers = [PredictionWriter() for _ in ranks]
    for rank, (writer, of) in enumerate(zip(writers, ranks, strict=True)):
        ids = [[rank, rank + 2], [rank + 4]]
        write(writer, of, [([{"row": i} for i in part], Rows(torch.tensor(part))) for part in ids])
    for writer, of in reversed(list(zip(writers, ranks, strict=True))):
        writer.on_predict_end(of, None)
    assert [row["row"] for row in written(tmp_path)] == [0, 1, 2, 3, 4, 5]
    assert writers[0].num_rows == 6
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert (tmp_path / "predictions.jsonl").stat().st_mode & 0o777 == 0o600  # they are responses: their owner's alone


def test_a_row_that_two_ranks_had_stands_there_once(tmp_path):
    ranks = [trainer(tmp_path, rank, 2) for rank in range(2)]
    writers = [PredictionWriter() for _ in ranks]
    for writer, of, ids in zip(writers, ranks, [[0, 2], [1, 0]], strict=True):
        write(writer, of, [([{"row": i} for i in ids], Rows(torch.tensor(ids)))])
    for writer, of in reversed(list(zip(writers, ranks, strict=True))):
        writer.on_predict_end(of, None)
    assert [row["row"] for row in written(tmp_path)] == [0, 1, 2]


def test_the_candidates_of_a_row_stay_together(tmp_path):
    ranks = [trainer(tmp_path, rank, 2, batches=[[rank, rank + 2]]) for rank in range(2)]
    mask = torch.tensor([[True, True, False], [True, True, True]])
    writers = [PredictionWriter() for _ in ranks]
    for rank, (writer, of) in enumerate(zip(writers, ranks, strict=True)):
        names = [f"{rank}a", f"{rank}b", f"{rank + 2}a", f"{rank + 2}b", f"{rank + 2}c"]
        write(writer, of, [([{"name": name} for name in names], Candidates(mask))])
    for writer, of in reversed(list(zip(writers, ranks, strict=True))):
        writer.on_predict_end(of, None)
    names = [row["name"] for row in written(tmp_path)]
    assert names == ["0a", "0b", "1a", "1b", "2a", "2b", "2c", "3a", "3b", "3c"]


def test_rows_of_unknown_place_stand_in_the_order_of_the_batches(tmp_path):
    writer, of = PredictionWriter(), trainer(tmp_path)
    write(writer, of, [([{"row": 0}, {"row": 1}], None), ([{"row": 2}], None)])
    writer.on_predict_end(of, None)
    assert [row["row"] for row in written(tmp_path)] == [0, 1, 2]


def test_rows_of_unknown_place_on_several_ranks_stand_in_the_order_in_which_they_were_dealt(tmp_path):
    ranks = [trainer(tmp_path, rank, 3) for rank in range(3)]
    writers = [PredictionWriter() for _ in ranks]
    for rank, (writer, of) in enumerate(zip(writers, ranks, strict=True)):
        write(writer, of, [([{"row": 3 * batch + rank}], None) for batch in range(2)])
    for writer, of in reversed(list(zip(writers, ranks, strict=True))):
        writer.on_predict_end(of, None)
    assert [row["row"] for row in written(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_tensors_and_arrays_become_numbers_and_text_stays_readable(tmp_path):
    writer, of = PredictionWriter(), trainer(tmp_path)
    write(writer, of, [([{"score": torch.tensor(0.5), "scores": np.array([1.0]), "text": "né 中"}], None)])
    writer.on_predict_end(of, None)
    assert "né 中" in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8")
    assert written(tmp_path) == [{"score": 0.5, "scores": [1.0], "text": "né 中"}]


def test_what_json_cannot_hold_is_an_error(tmp_path):
    writer, of = PredictionWriter(), trainer(tmp_path)
    with pytest.raises(TypeError, match="a prediction must hold JSON values, got a object"):
        write(writer, of, [([{"score": object()}], None)])
    writer.on_exception(of, None, TypeError())
    assert not list(tmp_path.iterdir())


def test_predictions_of_before_stay_until_the_new_ones_are_whole(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"row": "old"}\n')
    writer, of = PredictionWriter(), trainer(tmp_path)
    write(writer, of, [([{"row": 0}], None)])
    assert written(tmp_path) == [{"row": "old"}]
    writer.on_exception(of, None, KeyboardInterrupt())
    assert written(tmp_path) == [{"row": "old"}]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_predictions_of_before_are_kept_under_a_number_with_their_config(tmp_path):
    for number in range(3):
        writer, of = PredictionWriter(), trainer(tmp_path)
        write(writer, of, [([{"row": number}], None)])
        writer.on_predict_end(of, None)
        (tmp_path / "config-predict.yaml").write_text(f"of {number}")
    assert written(tmp_path) == [{"row": 2}]
    for number in (1, 2):
        assert (tmp_path / f"predictions-{number}.jsonl").read_text() == f'{{"row": {number - 1}}}\n'
        assert (tmp_path / f"config-predict-{number}.yaml").read_text() == f"of {number - 1}"


def test_predictions_of_before_are_replaced_when_that_is_asked_for(tmp_path):
    for number in range(2):
        writer, of = PredictionWriter(overwrite=True), trainer(tmp_path)
        write(writer, of, [([{"row": number}], None)])
        writer.on_predict_end(of, None)
    assert written(tmp_path) == [{"row": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path):
    of, writer = trainer(tmp_path), PredictionWriter()
    (tmp_path / ".predictions.jsonl.part-0").symlink_to("/dev/full")
    write(writer, of, [([{"text": "x"}], Rows(torch.tensor([0])))])
    with pytest.raises(OSError, match="No space left") as error:
        writer.on_predict_end(of, None)
    writer.on_exception(of, None, error.value)
    assert not list(tmp_path.iterdir())
