import torch

from lightning_rlhf.rollout.repetition import distinct_2


def test_distinct_2_falls_with_repetition_and_reads_nothing_after_the_end():
    ids = torch.tensor([[2, 3, 2, 3, 2], [2, 2, 9, 9, 9], [4, 0, 0, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True, False, False, False, False]])
    assert distinct_2(ids, mask).tolist() == [0.5, 1.0, 1.0]
