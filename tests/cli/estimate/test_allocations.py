import gc

import numpy as np
import pytest
import torch

from lightning_rlhf.cli.estimate.allocations import Trace, recorded, scaled

CPU = torch.device("cpu")


def product(rows):
    """A layer of 64 by 512 numbers: its result is kept until the end."""
    weight = torch.ones(64, 512)

    def work():
        return (torch.ones(rows, 64) @ weight).sum()

    return work


def test_a_trace_holds_what_kernels_take_inside_of_themselves():
    logits = torch.zeros(10, 1000)
    trace = recorded(lambda: logits.logsumexp(-1), CPU)
    assert trace.peak >= logits.nbytes  # the exponentials, which no operation returns


def test_what_is_given_back_is_taken_off():
    trace = recorded(product(4), CPU)
    assert trace.live[-1] == 0
    assert trace.peak >= 4 * (4 * 64 + 4 * 512)


def test_the_trace_of_large_work_follows_from_two_of_small_work():
    traces = [recorded(product(rows), CPU) for rows in (2, 3)]
    whole = scaled(traces, [(2,), (3,)], (50,))
    assert whole.peak == pytest.approx(recorded(product(50), CPU).peak, rel=1e-6)


def test_rows_and_targets_are_scaled_each_for_themselves():
    traces = [Trace(np.array([10.0 * rows, 7.0 * targets, -10.0 * rows])) for rows, targets in ((2, 4), (3, 6), (2, 2))]
    whole = scaled(traces, [(2, 4), (3, 6), (2, 2)], (100, 11))
    assert whole.sizes.tolist() == pytest.approx([1000, 77, -1000])
    assert whole.peak == pytest.approx(1077)


def test_what_does_not_grow_with_the_size_is_taken_once():
    traces = [Trace(np.array([1000.0, 10.0 * rows, 5.0])) for rows in (2, 3)]
    assert scaled(traces, [(2,), (3,)], (50,)).sizes.tolist() == pytest.approx([1000, 500, 5])


def test_traces_of_different_events_are_compared_by_their_peaks():
    traces = [Trace(np.array([20.0, -20.0])), Trace(np.array([10.0, 20.0, -30.0]))]
    assert scaled(traces, [(2,), (3,)], (4,)).peak == pytest.approx(40)


def test_the_profiler_writes_nothing_to_the_terminal(capfd):
    recorded(product(2), CPU)
    assert capfd.readouterr() == ("", "")


def test_garbage_of_an_earlier_recording_is_not_given_back_in_the_middle_of_a_later_one():
    """A collection may come at any moment, and the profiler knows what was taken while it ran before."""

    class Ring:
        def __init__(self):
            self.itself, self.tensor = self, torch.zeros(1000)

    def work():
        gc.set_threshold(20, 2, 2)  # from here on it does come
        for _ in range(200):
            kept.append([torch.zeros(10)])

    kept, threshold = [], gc.get_threshold()
    try:
        gc.set_threshold(100_000)
        recorded(lambda: Ring() and None, CPU)
        trace = recorded(work, CPU)
        assert gc.isenabled()
    finally:
        gc.set_threshold(*threshold)
    assert trace.sizes.tolist() == [40.0] * 200
