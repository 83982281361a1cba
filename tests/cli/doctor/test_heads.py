import pytest
import torch

from lightning_rlhf.cli.doctor.heads import RewardHead
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import ScalarModel, load_base, save_reward_model


@pytest.fixture
def reward_model(kit, tmp_path):
    loaded = load_base(kit.Altered())
    path = tmp_path / "reward"
    save_reward_model(ScalarModel.from_language_model(loaded), loaded.tokenizer, path, None)
    return str(path)


def test_a_reward_model_with_its_head_passes(kit, reward_model):
    subject = kit.subject("ppo", reward_model=reward_model, rewards=None)
    assert kit.statuses(RewardHead(), subject) == ["PASS"]
    assert RewardHead().unusable([reward_model]) == []


@pytest.mark.parametrize(("value", "words"), [(0.0, "all zeros"), (float("nan"), "not finite")])
def test_a_head_that_says_nothing_fails(kit, reward_model, value, words):
    subject = kit.subject("ppo", reward_model=reward_model, rewards=None)
    with torch.no_grad():
        subject.ppo.reward_models[0].head.weight.fill_(value)
    result = kit.only(RewardHead(), subject)
    assert (result.status, words in result.finding) == ("FAIL", True)


def test_a_language_model_in_the_place_of_a_reward_model_fails(kit, tmp_path):
    model, tokenizer = kit.Altered().load()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (result,) = RewardHead().unusable([str(tmp_path)])
    assert result.status == "FAIL"
    assert "must hold a head" in result.finding


def test_a_reward_model_that_does_not_exist_is_a_mistake_and_no_finding(kit, tmp_path):
    with pytest.raises(ModelError, match="must be an existing directory"):
        RewardHead().unusable([str(tmp_path / "nowhere")])


def test_a_run_without_a_reward_model_has_no_head_to_check(kit):
    assert kit.results(RewardHead(), kit.subject("ppo")) == []
