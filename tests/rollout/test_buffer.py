import torch

from lightning_rlhf.batches import Rollout
from lightning_rlhf.rollout.buffer import minibatches, rollout_from_state, rollout_state, select_rows


def rollout() -> Rollout:
    prompt_mask = torch.tensor([[False, True, True], [True, True, True], [False, False, True]])
    mask = torch.tensor([[True, False, False, False], [True, True, True, False], [True, True, False, False]])
    numbers = torch.arange(12.0).reshape(3, 4) * mask
    ids = torch.arange(9).reshape(3, 3) * prompt_mask
    return Rollout(ids, prompt_mask, mask.long(), mask, mask, numbers, numbers, numbers, numbers, numbers)


def test_selected_rows_are_trimmed_to_what_they_need():
    part = select_rows(rollout(), torch.tensor([2, 0]))
    assert part.prompt_ids.tolist() == [[0, 8], [1, 2]]
    assert part.prompt_mask.tolist() == [[False, True], [True, True]]
    assert part.completion_mask.tolist() == [[True, True], [True, False]]
    assert part.advantages.tolist() == [[8.0, 9.0], [0.0, 0.0]]


def test_selecting_all_rows_gives_the_rollout_without_its_empty_columns():
    part = select_rows(rollout(), torch.arange(3))
    assert torch.equal(part.returns, rollout().returns[:, :3])
    assert torch.equal(part.prompt_ids, rollout().prompt_ids)


def test_a_state_gives_the_rollout_back():
    again = rollout_from_state(rollout_state(rollout()))
    assert all(torch.equal(first, second) for first, second in zip(again, rollout(), strict=True))


def test_orders_depend_on_seed_iteration_and_epoch():
    orders = [
        torch.cat(minibatches(seed, iteration, num_rows=9, size=4, num_epochs=2)).tolist()
        for seed in (0, 1)
        for iteration in (0, 1)
    ]
    epochs = [tuple(order[start : start + 9]) for order in orders for start in (0, 9)]
    assert len(set(epochs)) == 8
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
