"""What is said of a checkpoint."""

import pytest
import torch
from torch import nn

from lightning_rlhf.cli.checkpoint_path import refused_checkpoint


def test_a_checkpoint_is_not_blamed_for_weights_that_fail_to_load_elsewhere():
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict") as caught:
        nn.Linear(1, 1).load_state_dict({"other": torch.zeros(1)})
    assert refused_checkpoint(caught.value) is None
