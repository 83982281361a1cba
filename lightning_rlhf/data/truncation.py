"""Which tokens stay when a row is too long.

The end of the prompt and the beginning of the response are kept. The longer of the two is cut first, and neither is cut
below half of `max_length` while the other has more.
"""

from collections.abc import Sequence

__all__ = ["end_of_prompt", "prompt_room"]


def prompt_room(prompt_length: int, response_length: int, max_length: int) -> int:
    """How many tokens of the prompt are kept; the response gets the rest of `max_length`.

    >>> prompt_room(10, 4, 20), prompt_room(30, 4, 20), prompt_room(30, 30, 20), prompt_room(3, 30, 20)
    (10, 16, 10, 3)
    """
    return min(prompt_length, max(max_length - response_length, max_length // 2))


def end_of_prompt(ids: Sequence[int], length: int, bos_id: int | None) -> list[int]:
    """Places of the last `length` ids; a BOS at the start of the prompt stays there.

    >>> end_of_prompt([1, 5, 6, 7], 3, bos_id=1)
    [0, 2, 3]
    """
    places = list(range(len(ids)))
    if len(ids) <= length:
        return places
    if bos_id is not None and length > 1 and ids[0] == bos_id:
        return [0, *places[len(ids) - length + 1 :]]
    return places[len(ids) - length :]
