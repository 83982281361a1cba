"""Human rankings of two to nine answers, and graded answers that tie, train a reward model."""

from collections import Counter

import pytest

pytestmark = pytest.mark.real

TREES = "ranking/oasst_en_trees.jsonl"
SOLUTIONS = "ranking/gsm8k_model_solutions.jsonl.gz"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def ranked_answers(node):
    """For each node with at least two ranked answers how many answers it has, and how many of them are ranked."""
    answers = [reply for reply in node["replies"] if reply["role"] == "assistant"]
    num_ranked = sum("rank" in answer for answer in answers)
    found = [(len(answers), num_ranked)] if num_ranked > 1 else []
    return found + [pair for reply in node["replies"] for pair in ranked_answers(reply)]


@pytest.fixture
def trees(data):
    from configs.components import OasstRankings

    return list(OasstRankings(str(data / TREES), val_fraction=0.0).load("train"))


def test_every_ranking_of_the_trees_is_found_with_the_dialogue_above_it(trees, rows):
    expected = [pair for tree in rows(TREES) for pair in ranked_answers(tree["prompt"])]
    found = [(len(row.responses), len(row.ranks[0]) - row.ranks[0].count(None)) for row in trees]
    assert found == expected
    assert {num_answers for num_answers, _ in found} == {2, 3, 4, 5, 6, 9}
    assert (4, 3) in found  # one answer beside three ranked ones was not ranked, its key is absent
    for row in trees:
        assert [message.role for message in row.prompt] == ["user", "assistant"] * (len(row.prompt) // 2) + ["user"]
    assert Counter(len(row.prompt) for row in trees).keys() == {1, 3, 5}


def test_a_ranking_below_another_one_follows_one_of_its_answers(trees):
    answers = {(row.prompt, response) for row in trees for response in row.responses}
    deeper = [row for row in trees if len(row.prompt) > 1]
    # the answer above belongs to a ranking, or was the only one
    followed = [row for row in deeper if (row.prompt[:-2], row.prompt[-2].content) in answers]
    assert len(followed) > len(deeper) / 2


def test_held_out_trees_share_no_first_turn_with_the_others(data):
    from configs.components import OasstRankings

    source = OasstRankings(str(data / TREES), val_fraction=0.3)
    first_turns = [{row.prompt[0] for row in source.load(split)} for split in ("train", "validation", "test")]
    assert [bool(turns) for turns in first_turns] == [True, True, False]
    assert not first_turns[0] & first_turns[1]


@pytest.mark.parametrize("loss", ["pairwise", "plackett_luce"])
def test_rankings_of_ragged_size_train_a_reward_model(fit, few_steps, data, trees, loss):
    assert len({len(row.responses) for row in trees[:8]}) > 2  # the batch that is learned
    run = fit("reward/oasst.yaml", **few_steps, **{"data.source.path": data / TREES, "model.loss": loss})
    assert f"train: {len(trees)} rows, " in run.report
    assert "without an ordered pair" not in run.report
    run.assert_learned()


def test_graded_answers_train_a_reward_model_and_questions_that_order_nothing_are_counted(fit, few_steps, data, rows):
    num_correct = [sum(row[model]["is_correct"] for model in MODELS) for row in rows(SOLUTIONS)]
    all_tie = sum(number in (0, 4) for number in num_correct)
    assert 0 < all_tie < len(num_correct)
    run = fit("reward/gsm8k.yaml", **few_steps, **{"data.source.path": data / SOLUTIONS})
    assert f"train: {len(num_correct) - all_tie} rows, {all_tie} rankings without an ordered pair" in run.report
    run.assert_learned()
