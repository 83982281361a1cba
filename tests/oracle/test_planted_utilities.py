"""Rankings drawn from utilities that are known: losses, reward models and converters must find them again.

A ranking of Plackett and Luce puts candidate after candidate, each with a probability in proportion to `exp(utility)`
among those that are left. Two of its candidates then stand to each other as Bradley and Terry have it.
"""

import itertools
import math

import lightning as L
import numpy as np
import pytest
import torch

from lightning_rlhf import registry
from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.data import RankingData
from lightning_rlhf.functional import pairwise_ranking_loss, plackett_luce_loss, regression_loss
from lightning_rlhf.modules import RewardModule
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Ranking

UTILITIES = (0.8, -0.5, 0.3, -1.1)
RESPONSES = ("yes", "no", "perhaps", "never")
CONVERTERS = ("linear", "borda", "zscore", "bradley_terry")


def orders():
    """Every order of the candidates, best first, with its probability."""
    for order in itertools.permutations(range(len(UTILITIES))):
        weights = [math.exp(UTILITIES[candidate]) for candidate in order]
        yield order, math.prod(weight / sum(weights[place:]) for place, weight in enumerate(weights))


def ranks_of(order):
    return tuple(float(order.index(candidate)) for candidate in range(len(order)))


def centred(utilities):
    utilities = torch.as_tensor(utilities, dtype=torch.float64)
    return utilities - utilities.mean()


@pytest.mark.parametrize("loss", [pairwise_ranking_loss, plackett_luce_loss])
def test_a_ranking_loss_is_smallest_at_the_utilities(loss):
    ranks = torch.tensor([ranks_of(order) for order, _ in orders()])
    shares = torch.tensor([share for _, share in orders()], dtype=torch.float64)
    mask = torch.ones_like(ranks, dtype=torch.bool)
    assert shares.sum().item() == pytest.approx(1)
    scores = torch.zeros(len(UTILITIES), dtype=torch.float64, requires_grad=True)

    def expected_loss():
        each = [loss(scores[None], ranks[row, None], mask[row, None]) for row in range(len(ranks))]
        return (torch.stack(each) * shares).sum()

    optimizer = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        value = expected_loss()
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(centred(scores.detach()), centred(UTILITIES), rtol=0, atol=1e-5)


def test_the_regression_loss_is_smallest_at_its_targets():
    targets, mask = torch.tensor([UTILITIES]), torch.ones(1, len(UTILITIES), dtype=torch.bool)
    scores = torch.zeros_like(targets, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = regression_loss(scores, targets, mask)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(scores.detach(), targets)


class PlantedRankings(DataSource):
    """About 300 rankings of the same responses, each order as often as it is probable."""

    def load(self, split):
        if split != "train":
            return []
        return [
            Ranking("Shall we?", RESPONSES, (ranks_of(order),))
            for order, share in orders()
            for _ in range(round(300 * share))
        ]


@pytest.mark.parametrize("loss", ["pairwise", "plackett_luce"])
def test_a_reward_model_recovers_the_utilities_and_is_centred(tmp_path, loss):
    L.seed_everything(1, verbose=False)
    base = TinyModel(hidden_size=16, num_layers=1, num_heads=2)
    module = RewardModule(base, loss=loss, learning_rate=1e-2)
    data = RankingData(PlantedRankings(), batch_size=75)
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        max_epochs=15,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    with torch.no_grad():
        scores = torch.cat(
            [
                module.model.scores(batch.tokens, batch.last_positions).reshape(-1, len(RESPONSES))
                for batch in data.unshuffled_train_dataloader()
            ]
        )
    assert abs(float(scores.mean())) < 1e-5
    # the multiplicities are rounded, and the last step is not at the very minimum
    torch.testing.assert_close(scores[0].double(), centred(UTILITIES), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_rewards_of_a_converter_stand_in_the_order_of_the_utilities(name):
    annotators = [ranks_of(order) for order, share in orders() for _ in range(round(300 * share))]
    rewards = registry.create("ranking_converter", name)(np.array(annotators))
    assert np.argsort(rewards).tolist() == np.argsort(UTILITIES).tolist()
    # and of one annotator alone in the order of the annotator
    for order, _ in orders():
        rewards = registry.create("ranking_converter", name)(np.array([ranks_of(order)]))
        assert np.argsort(-rewards).tolist() == list(order)


def test_bradley_terry_rewards_of_many_annotators_are_the_utilities():
    annotators = [ranks_of(order) for order, share in orders() for _ in range(round(1000 * share))]
    rewards = registry.create("ranking_converter", "bradley_terry")(np.array(annotators))
    torch.testing.assert_close(centred(rewards), centred(UTILITIES), rtol=0, atol=0.02)
