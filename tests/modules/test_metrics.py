"""Sums that cross batches, however the module around them is cast."""

import json
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from lightning_rlhf.modules.metrics import MeanPerItem, NamedMeans, RankingAccuracy, WindowLoss


def test_a_mean_weighs_items_and_not_batches():
    mean = MeanPerItem()
    mean.update(torch.tensor(6.0), 3)
    mean.update(torch.tensor(10.0), torch.tensor(1))
    assert float(mean.compute()) == 4.0


def test_a_metric_carries_no_graph():
    weight = torch.ones((), requires_grad=True)
    mean, loss, means, accuracy = MeanPerItem(), WindowLoss(), NamedMeans(), RankingAccuracy()
    for _ in range(2):
        mean.update(weight * 3, 2)
        loss.update(weight * 3)
        means.add("a/b", weight * 3, 2)
        ranks, lengths = torch.tensor([[0, 1]]), torch.ones(1, 2)
        accuracy.update(weight * torch.tensor([[2.0, 1.0]]), ranks, torch.ones(1, 2, dtype=torch.bool), lengths)
    sums = [
        mean.total,
        loss.total,
        accuracy.correct,
        *(total for total, _ in means.sums().values()),
        means.means["a__b"].total,
    ]
    assert not any(total.requires_grad for total in [*sums, mean.compute(), loss.compute(), means.take()["a/b"]])
    assert (float(mean.compute()), float(loss.compute()), float(accuracy.compute())) == (1.5, 6.0, 1.0)


def test_sums_keep_their_precision_when_the_module_is_cast():
    module = nn.ModuleDict({"mean": MeanPerItem(), "loss": WindowLoss()}).to(torch.bfloat16)
    module["mean"].reset()
    for _ in range(1000):
        module["mean"].update(torch.ones((), dtype=torch.bfloat16), 1)
    assert module["mean"].total.dtype == torch.float32
    assert float(module["mean"].compute()) == 1.0
    assert module["loss"].total.dtype == torch.float32


def test_named_means_are_taken_once_and_leave_out_what_was_never_counted():
    means = NamedMeans(["a/b", "never"])
    means.add("a/b", torch.tensor(3.0), 2)
    means.add("new", torch.tensor(1.0), 1)
    assert {name: float(value) for name, value in means.take().items()} == {"a/b": 1.5, "new": 1.0}
    assert means.take() == {}


def test_named_means_go_on_from_a_checkpoint():
    means, restored = NamedMeans(["a/b"]), NamedMeans(["a/b"])
    means.add("a/b", torch.tensor(3.0), 2)
    restored.add("a/b", torch.tensor(9.0), 1)
    restored.load_sums(means.sums())
    restored.add("a/b", torch.tensor(5.0), 2)
    assert {name: float(value) for name, value in restored.take().items()} == {"a/b": 2.0}
    assert not means.state_dict()


@pytest.mark.parametrize(("pairs", "share"), [("all", 2.5 / 4), ("longer", 0.5 / 2), ("shorter", 1.0)])
def test_accuracy_counts_ordered_pairs_and_half_of_ties_in_score(pairs, share):
    accuracy = RankingAccuracy(pairs)
    # pairs (better, worse): (0, 1) and (0, 2) right or tied, (1, 2) none: they tie in rank; the last is not there
    accuracy.update(
        torch.tensor([[2.0, 1.0, 2.0, 9.0]]),
        torch.tensor([[0, 1, 1, 0]]),
        torch.tensor([[True, True, True, False]]),
        torch.tensor([[3, 4, 2, 0]]),
    )
    accuracy.update(
        torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
        torch.tensor([[0, 1], [1, 0]]),
        torch.ones(2, 2, dtype=torch.bool),
        torch.tensor([[5, 1], [5, 1]]),
    )
    assert float(accuracy.compute()) == pytest.approx(share)


def _take_on_a_rank(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    means = NamedMeans(["loss/ptx", "loss/policy", "policy/skipped_share"])
    if rank == 0:  # no response of the other rank is in the loss
        means.add("loss/policy", torch.tensor(3.0), 6)
    means.add("policy/skipped_share", torch.tensor(float(rank)), 1)
    taken = {name: float(value) for name, value in means.take().items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(taken))
    distributed.destroy_process_group()


@pytest.mark.long
def test_a_rank_that_counted_nothing_takes_part_in_the_sum(tmp_path):
    torch.multiprocessing.spawn(_take_on_a_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {"loss/policy": 0.5, "policy/skipped_share": 0.5}
