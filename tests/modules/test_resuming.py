"""Generators that go on."""

import random

import numpy as np
import torch

from lightning_rlhf.modules.resuming import random_state, restore_random_state


def drawn():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.randn(()))


def test_every_generator_goes_on_from_a_state_that_went_through_a_file(tmp_path):
    _ = random.gauss(0, 1), np.random.randn()  # each keeps the second of a pair
    torch.save(random_state(), tmp_path / "state.pt")
    expected = drawn()
    assert drawn() != expected
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert drawn() == expected
