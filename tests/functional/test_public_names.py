import importlib
import pkgutil

import pytest

from lightning_rlhf import functional

MODULES = sorted(module.name for module in pkgutil.iter_modules(functional.__path__))

DESIGNED = {
    "KL_ESTIMATORS",
    "approx_kl",
    "centering_penalty",
    "clip_fraction",
    "clipped_policy_loss",
    "clipped_value_loss",
    "completion_mask",
    "explained_variance",
    "generalized_advantage_estimation",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "masked_mean",
    "masked_whiten",
    "next_token_loss",
    "pairwise_ranking_loss",
    "plackett_luce_loss",
    "position_ids",
    "ranking_accuracy",
    "regression_loss",
    "shape_rewards",
    "token_cross_entropy",
    "token_entropy",
    "token_logprobs",
}


def test_the_public_names_are_the_designed_ones():
    assert set(functional.__all__) == DESIGNED


def test_public_names_are_sorted_and_exist():
    assert functional.__all__ == sorted(functional.__all__)
    assert all(hasattr(functional, name) for name in functional.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_of_a_module_are_sorted_and_exist(name):
    module = importlib.import_module(f"lightning_rlhf.functional.{name}")
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


def test_every_offered_name_comes_from_the_public_names_of_one_module():
    modules = [importlib.import_module(f"lightning_rlhf.functional.{name}") for name in MODULES]
    for name in functional.__all__:
        assert sum(name in module.__all__ for module in modules) == 1, name
