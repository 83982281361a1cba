"""What can be learned from, and what a run without it says: through whole stages."""

import pytest

from lightning_rlhf.errors import DataError, ScorerError
from lightning_rlhf.plugin_system.interfaces import RewardFunction


class Constant(RewardFunction):
    """The same for everyone.

    Args:
        score: what everyone gets.
    """

    def __init__(self, score=1.0):
        self.score = score

    def __call__(self, prompts, responses, **columns):
        return [self.score for _ in responses]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # torch does not know of steps left out
def test_responses_that_are_all_masked_leave_no_model_and_the_reason(kit, tmp_path):
    module, data = kit.ppo(mask_unstopped=True, max_response_length=1)
    why = r"nothing was learned in epoch 0: .* None of the 8 responses of iteration 0 stopped, and mask_unstopped"
    with pytest.warns(UserWarning, match=why), pytest.raises(DataError, match="a run must learn something"):
        kit.fit((module, data), tmp_path)
    assert not (tmp_path / "model").exists()


def test_scores_that_are_all_equal_are_told_in_each_iteration(kit, tmp_path):
    with pytest.warns(UserWarning, match="Nothing in it says") as told:
        kit.fit(kit.ppo(rewards=[Constant()]), tmp_path, max_epochs=2)
    messages = [str(each.message) for each in told if "Nothing in it says which one is better" in str(each.message)]
    wanted = [f"all 8 responses of iteration {iteration} got the score 1" for iteration in (0, 1)]
    assert [message.partition(".")[0] for message in messages] == wanted


@pytest.mark.parametrize("options", [{"rewards": [Constant(1e30)]}, {"reward_weights": [1e30]}])
def test_rewards_that_no_loss_can_hold_are_the_scorers_fault(kit, tmp_path, options):
    with pytest.raises(ScorerError, match=r"a reward must be below 1e\+15 to be learned from, got one of .* from '"):
        kit.fit(kit.ppo(**options), tmp_path)
