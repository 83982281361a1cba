import pytest

from lightning_rlhf.data.truncation import end_of_prompt, prompt_room


@pytest.mark.parametrize("prompt", [0, 1, 5, 40])
@pytest.mark.parametrize("response", [1, 5, 40])
@pytest.mark.parametrize("max_length", [2, 7, 20, 99])
def test_prompt_and_response_share_the_room_and_waste_none(prompt, response, max_length):
    room = prompt_room(prompt, response, max_length)
    kept = min(response, max_length - room)
    assert 0 <= room <= prompt
    assert kept >= 1
    assert room + kept == min(prompt + response, max_length)


def test_the_end_is_kept_and_a_bos_at_the_start():
    assert end_of_prompt([4, 5, 6, 7], 2, bos_id=None) == [2, 3]
    assert end_of_prompt([4, 5, 6, 7], 2, bos_id=1) == [2, 3]
    assert end_of_prompt([1, 5, 6, 7], 2, bos_id=1) == [0, 3]
    assert end_of_prompt([1, 5, 6, 7], 1, bos_id=1) == [3]
    assert end_of_prompt([1, 5, 6, 7], 0, bos_id=1) == []
    assert end_of_prompt([1, 5], 2, bos_id=1) == [0, 1]
