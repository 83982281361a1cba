import io
from itertools import islice

import pytest
import torch

from lightning_rlhf.batches import DemonstrationBatch, Rollout, TokenBatch
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout.loader import RolloutLoader

ROWS = 10


def rollout(iteration, rows=ROWS):
    generator = torch.Generator().manual_seed(iteration)
    lengths = torch.randint(1, 6, (rows,), generator=generator)
    mask = torch.arange(5)[None] < lengths[:, None]
    numbers = torch.randn(rows, 5, generator=generator) * mask
    prompt_mask = torch.ones(rows, 3, dtype=torch.bool)
    return Rollout(
        prompt_mask.long(), prompt_mask, mask.long(), mask, mask, numbers, numbers, numbers, numbers, numbers
    )


def loader(collect=rollout, **changes):
    settings = {"num_rows": ROWS, "minibatch_size": 3, "num_epochs": 3, "accumulate": lambda: 2, "seed": 1, **changes}
    return RolloutLoader(collect, **settings)


def passes(loader, number):
    """What `number` iterations hand out."""
    return [list(loader) for _ in range(number)]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a.rows, b.rows) and torch.equal(a.num_targets, b.num_targets)
        for a, b in zip(first, second, strict=True)
    )


def test_a_rollout_has_at_least_one_row():
    assert [batch.rows.tolist() for batch in loader(lambda iteration: rollout(iteration, 1), num_rows=1)] == [[0]] * 3
    with pytest.raises(ConfigError, match="the rows of a rollout must be at least 1, got 0"):
        loader(num_rows=0)


def test_nothing_is_collected_before_the_first_minibatch_is_asked_for():
    collected = []

    def collect(iteration):
        collected.append(iteration)
        return rollout(iteration)

    subject = loader(collect)
    iter(subject)
    iterator = iter(subject)
    assert collected == []
    next(iterator)
    assert collected == [0]
    assert subject.rollout is not None


def test_the_length_is_what_is_handed_out():
    assert len(loader()) == 3 * 4 == len(list(loader()))


def test_every_inner_epoch_takes_each_row_once_in_a_fresh_order():
    (steps,) = passes(loader(), 1)
    epochs = [torch.cat([step.rows for step in steps[start : start + 4]]).tolist() for start in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_every_iteration_collects_anew_and_has_orders_of_its_own():
    collected = []

    def collect(iteration):
        collected.append(iteration)
        return rollout(iteration)

    first, second = passes(loader(collect), 2)
    assert collected == [0, 1]
    assert not same(first, second)


@pytest.mark.parametrize("accumulate", [1, 2, 5, 12, 50])
def test_num_targets_counts_the_whole_window_over_all_ranks(accumulate):
    subject = loader(accumulate=lambda: accumulate, reduce=lambda counts: 2 * counts)
    (steps,) = passes(subject, 1)
    lengths = subject.rollout.loss_mask.sum(-1)
    for start in range(0, len(steps), accumulate):
        window = steps[start : start + accumulate]
        expected = 2 * sum(int(lengths[step.rows].sum()) for step in window)
        assert [int(step.num_targets) for step in window] == [expected] * len(window)
        assert window[0].num_targets.dtype == torch.int64


def test_a_short_last_window_counts_what_it_has_under_a_limit_too():
    subject = loader(accumulate=lambda: 4, limit=6)
    (steps,) = passes(subject, 1)
    lengths = subject.rollout.loss_mask.sum(-1)
    assert len(steps) == 6
    assert int(steps[5].num_targets) == sum(int(lengths[step.rows].sum()) for step in steps[4:])
    assert loader(limit=0.5).num_steps == 6
    assert loader(limit=100).num_steps == 12


@pytest.mark.parametrize("position", [1, 2, 5, 11])
def test_a_state_within_an_iteration_goes_on_with_the_very_minibatches_and_rollout(position):
    expected = passes(loader(), 3)
    stopped = loader()
    list(stopped)
    list(islice(stopped, position))
    state = through_a_file(stopped.state_dict())

    def collect(iteration):
        assert iteration == 2, "the saved rollout is to be used"
        return rollout(iteration)

    resumed = loader(collect)
    resumed.load_state_dict(state)
    assert same(list(resumed), expected[1][position:])
    assert all(torch.equal(a, b) for a, b in zip(resumed.rollout, rollout(1), strict=True))
    assert same(list(resumed), expected[2])


def test_a_state_at_an_iterations_end_starts_the_next_and_carries_no_rollout():
    expected = passes(loader(), 2)
    stopped = loader()
    iterator = iter(stopped)
    for _ in range(len(stopped)):  # as the Trainer does: it never asks for one more
        next(iterator)
    state = through_a_file(stopped.state_dict())
    assert state["rollouts"] == []
    resumed = loader()
    resumed.load_state_dict(state)
    assert same(list(resumed), expected[1])


def test_a_state_before_the_first_minibatch_starts_at_the_beginning():
    resumed = loader()
    resumed.load_state_dict(through_a_file(loader().state_dict()))
    assert same(list(resumed), list(loader()))


def test_an_iteration_that_was_cut_by_a_limit_is_over():
    expected = passes(loader(limit=4), 2)
    stopped = loader(limit=4)
    iterator = iter(stopped)
    for _ in range(4):
        next(iterator)
    resumed = loader(limit=4)
    resumed.load_state_dict(through_a_file(stopped.state_dict()))
    assert same(list(resumed), expected[1])
    assert same(list(stopped), expected[1])


def test_an_iteration_that_was_left_is_not_continued():
    expected = passes(loader(), 2)
    subject = loader()
    list(islice(subject, 5))
    assert same(list(subject), expected[1])


def test_every_rank_gets_its_own_rollout_back():
    def ranks(rank):
        return {"rank": rank, "gather": lambda own: [rank_states[0], own] if isinstance(own, dict) else [0, 1]}

    rank_states = [{name: tensor + 7 for name, tensor in rollout(5)._asdict().items()}]
    stopped = loader(**ranks(1))
    list(islice(stopped, 3))
    state = through_a_file(stopped.state_dict())
    resumed = [loader(**ranks(rank)) for rank in (0, 1)]
    for subject in resumed:
        subject.load_state_dict(state)
    assert torch.equal(resumed[0].rollout.returns, rank_states[0]["returns"])
    assert torch.equal(resumed[1].rollout.returns, rollout(0).returns)


def test_other_settings_or_ranks_within_an_iteration_are_errors():
    stopped = loader()
    list(islice(stopped, 3))
    state = stopped.state_dict()
    with pytest.raises(ConfigError, match="must keep its settings, got minibatch_size 3 -> 5"):
        loader(minibatch_size=5).load_state_dict(state)
    with pytest.raises(ConfigError, match="resumed on 1 ranks, got 2"):
        loader(gather=lambda own: [own, own]).load_state_dict(state)


def test_a_rollout_of_another_size_is_an_error():
    with pytest.raises(ConfigError, match="10 rows, got 4"):
        next(iter(loader(lambda iteration: rollout(iteration, 4))))


def test_numbers_below_one_are_errors():
    with pytest.raises(ConfigError, match="minibatch_size must be at least 1"):
        loader(minibatch_size=0)


def pretraining(asked):
    def batch(step, num_rows):
        asked.append((step, num_rows))
        ids = torch.zeros(num_rows, 2, dtype=torch.int64)
        tokens = TokenBatch(ids, ids.bool(), ids)
        return DemonstrationBatch(tokens, ids, torch.tensor(num_rows), torch.tensor(10 * num_rows))

    return batch


def test_pretraining_rows_come_with_the_counts_of_their_window():
    asked = []
    subject = loader(ptx=pretraining(asked), reduce=lambda counts: 2 * counts)
    first, second = passes(subject, 2)
    assert asked[:5] == [(0, 3), (1, 3), (2, 3), (3, 3), (4, 3)]
    assert asked[12] == (12, 3)
    for steps in (first, second):
        for start in range(0, 12, 2):
            window = steps[start : start + 2]
            rows = sum(len(step.ptx.labels) for step in window)
            assert all(int(step.ptx.num_targets) == 2 * rows for step in window)
            assert all(int(step.ptx.num_tokens) == 20 * rows for step in window)


def test_pretraining_rows_of_a_resumed_window_are_those_of_an_uninterrupted_one():
    expected = list(loader(accumulate=lambda: 4, ptx=pretraining([])))
    stopped = loader(accumulate=lambda: 4, ptx=pretraining([]))
    list(islice(stopped, 3))
    resumed = loader(accumulate=lambda: 4, ptx=pretraining([]))
    resumed.load_state_dict(through_a_file(stopped.state_dict()))
    rest = list(resumed)
    assert same(rest, expected[3:])
    assert [int(step.ptx.num_targets) for step in rest] == [int(step.ptx.num_targets) for step in expected[3:]]
