"""The mistakes that PPO hides: each of them, planted, keeps it away from the optimum that it else finds.

All of them run to their end without an error: only the optimum tells.
"""

import pytest
import torch
from torch.nn import functional as F

from lightning_rlhf.errors import DataError
from lightning_rlhf.modules import policy_update, ppo
from lightning_rlhf.rollout import collection, passes

pytestmark = pytest.mark.long

ASTRAY = 0.1


def flip_the_sign(monkeypatch):
    """The policy loss is maximised."""
    right = policy_update.clipped_policy_loss
    monkeypatch.setattr(policy_update, "clipped_policy_loss", lambda *args, **options: -right(*args, **options))


def reward_the_kl(monkeypatch):
    """The KL is a prize, not a price."""
    right = collection.kl_k1
    monkeypatch.setattr(collection, "kl_k1", lambda logprobs, ref_logprobs: right(ref_logprobs, logprobs))


def shift_the_loss_mask(monkeypatch):
    """The loss leaves out the first token and reads one past the last."""
    right = policy_update.clipped_policy_loss

    def wrong(logprobs, old_logprobs, advantages, mask, **options):
        return right(logprobs, old_logprobs, advantages, F.pad(mask[:, :-1], (1, 0)), **options)

    monkeypatch.setattr(policy_update, "clipped_policy_loss", wrong)


def leave_out_the_stop_token(monkeypatch):
    """The mask of the loss ends before the last token of a response."""
    right = policy_update.clipped_policy_loss

    def wrong(logprobs, old_logprobs, advantages, mask, **options):
        return right(logprobs, old_logprobs, advantages, F.pad(mask[:, 1:], (0, 1)), **options)

    monkeypatch.setattr(policy_update, "clipped_policy_loss", wrong)


def read_the_logits_one_late(monkeypatch):
    """Rollout and update agree on the wrong position: the ratio is one, and the KL starts at zero."""
    for module in (ppo, passes):
        right = module.response_rows

        def wrong(*args, right=right, **options):
            rows = right(*args, **options)
            return rows._replace(keep=F.pad(rows.keep[:, :-1], (1, 0)))

        monkeypatch.setattr(module, "response_rows", wrong)


def pay_the_score_one_token_late(monkeypatch):
    """The score stands behind the stop token, where there is a place behind it."""
    right = collection.shape_rewards

    def wrong(scores, kl, mask, *, kl_coef):
        place = mask.sum(-1).clamp(max=mask.shape[1] - 1)
        late = torch.zeros_like(kl).scatter(1, place[:, None], scores[:, None])
        return right(torch.zeros_like(scores), kl, mask, kl_coef=kl_coef) + late

    monkeypatch.setattr(collection, "shape_rewards", wrong)


def compare_with_the_reference(monkeypatch):
    """`ref_logprobs` where `old_logprobs` belong: the policy is clipped to the reference."""
    right = ppo.select_rows

    def wrong(rollout, rows):
        selected = right(rollout, rows)
        return selected._replace(old_logprobs=selected.ref_logprobs)

    monkeypatch.setattr(ppo, "select_rows", wrong)


@pytest.mark.filterwarnings("ignore:all .* responses of iteration", "ignore:nothing was learned")  # of a mistake
@pytest.mark.parametrize(
    "mutate",
    [
        flip_the_sign,
        pytest.param(reward_the_kl, marks=pytest.mark.slow),
        shift_the_loss_mask,
        pytest.param(leave_out_the_stop_token, marks=pytest.mark.slow),
        pytest.param(read_the_logits_one_late, marks=pytest.mark.slow),
        pay_the_score_one_token_late,
        compare_with_the_reference,
    ],
    ids=lambda mutate: mutate.__name__,
)
def test_with_this_mistake_ppo_does_not_end_at_the_optimum(oracle, tmp_path, monkeypatch, mutate):
    mutate(monkeypatch)
    if mutate is pay_the_score_one_token_late:  # beyond the response, where no gradient reaches: the run itself says so
        with pytest.raises(DataError, match="a run must learn something"):
            oracle.distances(tmp_path)
        return
    distances = oracle.distances(tmp_path)
    # over both prompts together: of the pair of prompt and response
    assert sum(distances.end) / len(distances.end) >= ASTRAY, distances
