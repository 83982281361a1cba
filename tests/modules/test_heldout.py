"""What validation of a policy adds up over its batches."""

import pytest
import torch

from lightning_rlhf.modules.heldout import HeldoutResponses
from lightning_rlhf.rollout import Evaluation, RolloutSample

CPU = torch.device("cpu")


def evaluation(kind, scores):
    samples = [RolloutSample(f"p{row}", f"{kind}{row}", {"s": 1.0}, 1.0, 0.5, 3, True) for row in range(len(scores))]
    return Evaluation({"score": torch.tensor(scores)}, samples)


def test_means_are_over_rows_of_all_batches_with_greedy_ones_under_their_prefix():
    heldout = HeldoutResponses()
    heldout.add(evaluation("s", [1.0, 2.0, 3.0]), evaluation("g", [10.0, 20.0, 30.0]), CPU, show=False)
    heldout.add(evaluation("s", [6.0]), evaluation("g", [0.0]), CPU, show=False)
    means = {name: float(value) for name, value in heldout.means.take().items()}
    assert means == {"score": 3.0, "greedy_score": 15.0}
    assert heldout.take_samples() == []


@pytest.mark.parametrize("num_samples", [1, 2])
def test_the_first_prompts_are_shown_with_both_responses_beside_each_other_and_once(num_samples):
    heldout = HeldoutResponses(num_samples)
    heldout.add(evaluation("s", [1.0, 2.0, 3.0]), evaluation("g", [1.0, 2.0, 3.0]), CPU, show=True)
    shown = [(sample.prompt, sample.response, sample.label, sample.kl) for sample in heldout.take_samples()]
    expected = [(f"p{row}", f"{label[0]}{row}", label, 0.5) for row in range(2) for label in ("sampled", "greedy")]
    assert shown == expected[: 2 * num_samples]
    assert heldout.take_samples() == []
