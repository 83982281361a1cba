import pytest

from lightning_rlhf.data.truncation import last_turn_cut, token_windows, whole_turns
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message

LETTERS = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def dialogue(text):
    """`s3 u2 a1`: a system turn of three characters, a question of two, an answer of one."""
    return [Message(LETTERS[word[0]], "abcdefghijklmnopqrstuvwxyz"[: int(word[1:])]) for word in text.split()]


def written(messages):
    return None if messages is None else " ".join(f"{turn.role[0]}{len(turn.content)}" for turn in messages)


def length(messages):
    """One token a character, and one around each turn."""
    return sum(len(turn.content) + 1 for turn in messages)


@pytest.mark.parametrize(
    ("whole", "room", "kept"),
    [
        ("s3 u2 a2 u2 a2 u2 a2", 16, "s3 u2 a2 u2 a2"),
        ("s3 u2 a2 u2 a2 u2 a2", 10, "s3 u2 a2"),
        ("u2 a2 t2 a2 u2 a2", 17, "u2 a2"),  # a call goes with its result and its answer
        ("s3 u2 a2 t5 a2", 12, "s3 u2 a2"),  # of one question the oldest answer goes
        ("s3 u9 a2", 12, "s3 u4 a2"),  # the question loses its beginning
        ("s3 u9 a2 t2 a2", 17, "s3 u3 a2 t2 a2"),
        ("s3 u9 a2 t2 a2", 15, "s3 u7 a2"),  # too little of the question would be left
        ("s3 u9 a2", 9, None),
        ("s3 u2 a9", 12, None),  # half an answer is never kept
        ("s9 u2 a2", 9, None),  # the system turn stays
        ("u2 a2 u2 u3 a2", 10, "u2 u3 a2"),  # two questions in a row belong together
        ("a2 u2 a2", 6, "u2 a2"),
        ("s3 a5 a2", 7, "s3 a2"),
        ("s3 u9 t2", 11, "s3 u3 t2"),
        ("s3 u2 a2 t9", 14, "s3 u2 a2 t3"),
        ("s3 u9 a2 t9", 9, "s3 a2 t1"),
    ],
)
def test_whole_turns_go_the_oldest_first_and_the_system_turn_stays(whole, room, kept):
    shorter = whole_turns(dialogue(whole), length, room, least=3)
    assert written(shorter) == kept
    if kept is not None:
        assert length(shorter) <= room


def test_of_a_question_the_end_is_kept():
    assert whole_turns(dialogue("u9 a2"), length, 8)[0].content == "fghi"
    assert last_turn_cut(dialogue("s2 u9"), length, 8)[-1].content == "abcd"
    assert last_turn_cut(dialogue("s9 u2"), length, 8) is None


def test_dialogues_that_the_template_refuses_are_passed_over():
    def strict(messages):
        if messages[0].role != "system" or messages[-1].role == "tool":
            raise TemplateError("refused")
        return length(messages)

    assert written(whole_turns(dialogue("s1 u2 a2 u2 a2"), strict, 8)) == "s1 u2 a2"
    assert whole_turns(dialogue("u2 a2 u2 a2"), strict, 8) is None


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_windows_predict_every_learned_token_once_and_prefer_to_end_with_a_turn(size):
    supervised = [flag == "1" for flag in "0001110011111111100100000111"]
    windows = token_windows(supervised, size)
    assert all(0 < end - start <= size for start, end in windows)
    predicted = [place for start, end in windows for place in range(start + 1, end) if supervised[place]]
    assert predicted == [place for place, flag in enumerate(supervised) if flag]
