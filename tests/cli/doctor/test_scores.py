import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lightning_rlhf.builtins.reward_functions import LengthReward
from lightning_rlhf.cli.doctor.scores import LengthInRanks, ScoreSpread, StartingScores, rank_correlation
from lightning_rlhf.records import Ranking


def test_a_rank_correlation_is_the_one_of_scipy_also_with_ties():
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second = generator.integers(0, 6, (2, 30))
        assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_a_rank_correlation_with_a_constant_is_none():
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_scores_that_differ_pass(kit):
    assert kit.statuses(ScoreSpread(), kit.subject("ppo")) == ["PASS"]


def test_a_run_whose_only_scorer_is_constant_fails(kit):
    result = kit.only(ScoreSpread(), kit.subject("ppo", rewards=[kit.Scored(lambda response: 0.5)]))
    assert result.status == "FAIL"
    assert "the same score" in result.finding


def test_one_constant_scorer_beside_another_warns(kit):
    rewards = [kit.Scored(lambda response: 0.5), kit.Scored(lambda response: hash(response[:1]) % 7)]
    assert kit.statuses(ScoreSpread(), kit.subject("ppo", rewards=rewards)) == ["WARN", "PASS", "PASS"]


def test_scorers_that_cancel_out_fail_in_their_sum(kit):
    rewards = [kit.Scored(lambda response: ord((response or "a")[0]))] * 2
    statuses = kit.statuses(ScoreSpread(), kit.subject("ppo", rewards=rewards, reward_weights=[1.0, -1.0]))
    assert statuses == ["PASS", "PASS", "FAIL"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_scorer_that_length_alone_explains_warns(kit, sign):
    # in bytes: one per token of this tokenizer, but for what is no UTF-8
    scorer = kit.Scored(lambda response: sign * len(response) / 10)
    result = kit.only(ScoreSpread(), kit.subject("ppo", rewards=[scorer]))
    assert result.status == "WARN"
    assert "length alone explains it" in result.finding
    assert ("longer" if sign > 0 else "shorter") in result.fix


def test_a_length_reward_is_meant_to_be_about_length(kit):
    assert kit.statuses(ScoreSpread(), kit.subject("ppo", rewards=[LengthReward()])) == ["PASS"]


def test_a_reward_function_that_raises_fails_and_is_named(kit):
    result = kit.only(ScoreSpread(), kit.subject("ppo", rewards=[kit.Scored(lambda response: 1 / 0)]))
    assert result.status == "FAIL"
    assert "'Scored'" in result.finding


def test_a_base_that_computes_nan_fails(kit):
    def spoil(model, tokenizer):
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))

    assert kit.statuses(StartingScores(), kit.subject("reward")) == ["PASS"]
    assert kit.statuses(StartingScores(), kit.subject("reward", base=kit.Altered(spoil))) == ["FAIL"]


def test_candidates_that_are_all_the_same_text_fail(kit):
    rows = [Ranking("q", ("a", "a"), (0, 1))] * 3
    assert kit.statuses(StartingScores(), kit.subject("reward", data={"source": kit.Records(rows)})) == ["FAIL"]


def test_rankings_in_which_the_longer_response_wins_warn(kit):
    assert kit.statuses(LengthInRanks(), kit.subject("reward")) == ["PASS"]
    for better, kind in ((0, "short"), (1, "long")):
        rows = [Ranking(f"{i}", ("a", "bbb"), (better, 1 - better)) for i in range(12)]
        result = kit.only(LengthInRanks(), kit.subject("reward", data={"source": kit.Records(rows)}))
        assert (result.status, f"learn that {kind} is good" in result.fix) == ("WARN", True)
