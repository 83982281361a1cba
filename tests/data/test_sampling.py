import numpy as np
import pytest

from lightning_rlhf.data.sampling import EpochSampler, heldout_batches, row_order


def batches_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler.batches(0, len(sampler)))


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    first = batches_of(EpochSampler(20, 3, seed=1), 0)
    np.random.default_rng().random(5)
    assert batches_of(EpochSampler(20, 3, seed=1), 0) == first
    assert batches_of(EpochSampler(20, 3, seed=1), 1) != first
    assert batches_of(EpochSampler(20, 3, seed=2), 0) != first
    assert sorted(row for batch in first for row in batch) == list(range(20))


def test_the_order_stays_the_same_in_every_release():
    assert row_order(1, "rows", 0, 6).tolist() == [4, 1, 5, 2, 0, 3]
    assert sorted(row_order(7, "rows", 3, 1000).tolist()) == list(range(1000))


def test_without_shuffling_the_order_is_the_splits():
    sampler = EpochSampler(5, 2, seed=1, shuffle=False)
    assert batches_of(sampler, 0) == batches_of(sampler, 4) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_partition_the_rows_into_equally_many_batches(num_rows, num_ranks):
    samplers = [EpochSampler(num_rows, 2, seed=1, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    parts = [batches_of(sampler, 5) for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}
    assert len({tuple(map(len, part)) for part in parts}) == 1
    rows = [row for part in parts for batch in part for row in batch]
    assert set(rows) == set(range(num_rows))
    assert len(rows) == -(-num_rows // num_ranks) * num_ranks  # at most one row per rank comes up twice
    assert sorted(samplers[0].global_rows(0, len(samplers[0])).tolist()) == sorted(rows)


def test_batches_of_two_ranks_are_those_of_one_process_with_a_batch_twice_as_large():
    ranks = [batches_of(EpochSampler(12, 2, seed=1, rank=rank, num_ranks=2), 0) for rank in range(2)]
    alone = batches_of(EpochSampler(12, 4, seed=1), 0)
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("num_rows", [4, 5, 9, 10])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_held_out_rows_come_up_once_in_equally_many_batches_none_empty(num_rows, batch_size, num_ranks):
    parts = [heldout_batches(num_rows, batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert len({len(part) for part in parts}) == 1
    assert all(batch for part in parts for batch in part)
    assert sorted(row for part in parts for batch in part for row in batch) == list(range(num_rows))
    assert max(len(batch) for part in parts for batch in part) <= batch_size + (num_ranks > 1)


class TestGroups:
    LENGTHS = np.random.default_rng(0).integers(1, 500, 1000)

    def padding(self, batches):
        return sum(len(rows) * max(self.LENGTHS[rows]) for rows in batches) / self.LENGTHS.sum() - 1

    def test_batches_of_similar_length_hold_every_row_once_and_little_padding(self):
        grouped = batches_of(EpochSampler(1000, 8, seed=1, lengths=self.LENGTHS), 0)
        assert sorted(row for rows in grouped for row in rows) == list(range(1000))
        assert self.padding(grouped) < 0.05
        assert self.padding(batches_of(EpochSampler(1000, 8, seed=1), 0)) > 0.5

    def test_neither_batches_nor_their_order_come_again_in_the_next_epoch(self):
        sampler = EpochSampler(1000, 8, seed=1, lengths=self.LENGTHS)
        first, second = ({frozenset(rows) for rows in batches_of(sampler, epoch)} for epoch in (0, 1))
        assert len(first & second) < 3
        longest = [max(self.LENGTHS[rows]) for rows in batches_of(sampler, 0)]
        assert longest != sorted(longest)

    def test_the_ranks_together_see_the_batches_of_one_process(self):
        ranks = [
            batches_of(EpochSampler(96, 2, seed=1, rank=rank, num_ranks=2, lengths=self.LENGTHS[:96]), 0)
            for rank in range(2)
        ]
        alone = batches_of(EpochSampler(96, 4, seed=1, lengths=self.LENGTHS[:96]), 0)
        assert [sorted(first + second) for first, second in zip(*ranks, strict=True)] == [sorted(b) for b in alone]

    def test_a_short_last_batch_stays_last(self):
        sizes = [len(rows) for rows in batches_of(EpochSampler(45, 8, seed=1, lengths=self.LENGTHS[:45]), 0)]
        assert sizes == [8, 8, 8, 8, 8, 5]
