import os
import subprocess
import sys

import numpy as np

from lightning_rlhf.rollout import randomness
from lightning_rlhf.rollout.randomness import permutation, random_seed, uniforms


def test_numbers_do_not_depend_on_which_rows_are_asked_for_together_or_in_which_order():
    whole = uniforms(3, "rollout", 2, range(10), 7)
    assert np.array_equal(whole[[8, 1, 5]], uniforms(3, "rollout", 2, [8, 1, 5], 7))
    assert np.array_equal(whole[4:5], uniforms(3, "rollout", 2, [4], 7))


def test_fewer_steps_are_a_prefix_of_more():
    assert np.array_equal(uniforms(3, "rollout", 2, [6], 9)[:, :4], uniforms(3, "rollout", 2, [6], 4))


def test_seed_purpose_iteration_and_row_each_give_other_numbers():
    keys = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1), (-1, "a", 0, 0)]
    streams = np.concatenate([uniforms(seed, purpose, iteration, [row], 50) for seed, purpose, iteration, row in keys])
    assert len(np.unique(streams)) == streams.size
    correlations = np.corrcoef(streams) - np.eye(len(keys))
    assert np.abs(correlations).max() < 0.5


def test_numbers_are_the_same_in_another_process():
    code = (
        "import runpy, sys; names = runpy.run_path(sys.argv[1]);"
        "print(names['uniforms'](7, 'rollout', 1, [2], 3).tolist(), names['permutation'](7, 'x', 1, 5).tolist())"
    )
    command = [sys.executable, "-c", code, str(randomness.__file__)]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    own = f"{uniforms(7, 'rollout', 1, [2], 3).tolist()} {permutation(7, 'x', 1, 5).tolist()}"
    assert other.stdout.strip() == own


def test_numbers_stay_what_they_were_in_earlier_releases():
    assert uniforms(0, "rollout", 0, [0], 2).tolist() == [[0.3943900968123214, 0.40343841932677615]]


def test_numbers_are_uniform():
    sample = uniforms(11, "rollout", 0, range(200), 100).ravel()
    assert sample.min() >= 0
    assert sample.max() < 1
    counts, _ = np.histogram(sample, bins=20, range=(0, 1))
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_squared < 43.8  # the 0.999 quantile with 19 degrees of freedom
    assert abs(sample.mean() - 0.5) < 4 * np.sqrt(1 / 12 / sample.size)


def test_permutation_holds_every_item_once_and_differs_by_key():
    orders = [permutation(5, purpose, iteration, 30) for purpose in ("a", "b") for iteration in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(30)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_every_item_comes_first_about_equally_often():
    firsts = [int(permutation(5, "order", iteration, 4)[0]) for iteration in range(2000)]
    assert np.abs(np.bincount(firsts, minlength=4) - 500).max() < 90


def test_random_seed_fits_every_generator():
    seeds = {random_seed(0, "generate", iteration, 0) for iteration in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
