import pytest

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout.selection import select_prompts


def test_iterations_walk_through_the_split_before_a_prompt_comes_up_again():
    parts = [select_prompts(0, iteration, num_prompts=12, rollout_size=4).row_ids for iteration in range(3)]
    assert sorted(row for part in parts for row in part) == list(range(12))


def test_each_walk_has_another_order():
    walks = [select_prompts(0, iteration, num_prompts=20, rollout_size=20).row_ids for iteration in range(2)]
    assert sorted(walks[0]) == sorted(walks[1])
    assert walks[0] != walks[1]


def test_ranks_share_what_one_process_would_take():
    alone = select_prompts(4, 3, num_prompts=50, rollout_size=6)
    parts = [select_prompts(4, 3, num_prompts=50, rollout_size=3, rank=rank, world_size=2) for rank in range(2)]
    pairs = [pair for part in parts for pair in zip(*part, strict=True)]
    assert sorted(pairs) == sorted(zip(*alone, strict=True))


def test_a_prompt_that_comes_up_twice_in_an_iteration_has_another_key():
    selection = select_prompts(0, 0, num_prompts=3, rollout_size=8)
    assert len(set(selection.keys)) == 8
    assert [key % 3 for key in selection.keys] == selection.row_ids


def test_an_empty_split_is_an_error():
    with pytest.raises(ConfigError, match="at least one prompt"):
        select_prompts(0, 0, num_prompts=0, rollout_size=1)
