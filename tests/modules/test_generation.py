"""Greedy responses, and the prompts that they are given to."""

import pytest
import torch

from lightning_rlhf.modules.generation import generate_greedily, left_padded

PROMPTS = [[5, 9, 40], [7], [33, 2, 61, 12, 8]]
LENGTH = 8


def most_probable(model, prompt, stop_ids):
    """One token after the other, each from a whole pass over all that stands before it."""
    ids, response = list(prompt), []
    for _ in range(LENGTH):
        with torch.no_grad():
            response.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        ids.append(response[-1])
        if response[-1] in stop_ids:
            break
    return response


@pytest.mark.parametrize("training", [False, True])
def test_a_greedy_response_is_the_most_probable_token_at_every_step(kit, training):
    model, _ = kit.model(num_layers=2).load()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # else it says the same whatever stands before
        for weight in model.parameters():
            weight.normal_(0.0, 0.5, generator=generator)
    free = [most_probable(model.eval(), prompt, ()) for prompt in PROMPTS]
    stop = free[0][3]
    expected = [most_probable(model, prompt, (stop,)) for prompt in PROMPTS]
    assert len({tuple(response) for response in expected}) == 3
    assert len(set(free[0])) > 2
    model.train(training)
    found = generate_greedily(model, *left_padded([torch.tensor(ids) for ids in PROMPTS]), [stop], LENGTH)
    responses = [ids[mask].tolist() for ids, mask in zip(found.response_ids, found.completion_mask, strict=True)]
    assert responses == expected
    assert found.stopped.tolist() == [stop in response for response in expected]
    assert model.training == training


def test_left_padded_rows_hold_the_prompts_ids_at_their_ends():
    ids, mask = left_padded([torch.tensor(row) for row in PROMPTS])
    assert ids.tolist() == [[0, 0, 5, 9, 40], [0, 0, 0, 0, 7], [33, 2, 61, 12, 8]]
    assert mask.tolist() == [[False] * 2 + [True] * 3, [False] * 4 + [True], [True] * 5]
