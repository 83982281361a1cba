import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.builtins.splitting import assigned_split, check_fractions, opening
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Text

fractions = st.floats(0, 0.49)


def dialogue(*turns):
    return tuple(Message("user" if index % 2 == 0 else "assistant", turn) for index, turn in enumerate(turns))


@settings(deadline=None)  # a busy machine
@given(st.text(min_size=1), st.text(min_size=1), fractions, fractions)
def test_all_records_for_one_prompt_stand_on_one_side(prompt, response, val_fraction, test_fraction):
    turns = dialogue(prompt, response, prompt, response)
    records = [
        Prompt(turns[:1]),
        Prompt(turns[:3]),
        Demonstration(turns[:2]),
        Demonstration(turns),
        Ranking(turns[:1], (response, "other"), ((0, 1),)),
    ]
    assert len({assigned_split(record, val_fraction, test_fraction) for record in records}) == 1


def test_the_sides_are_the_same_on_every_machine():
    sides = [assigned_split(Prompt(f"prompt {number}"), 0.2, 0.2) for number in range(12)]
    # Worked out with hashlib alone; a change of it would move rows that models were trained on into validation.
    assert "".join(side[:2] for side in sides) == "trtevavatrtrvatrtrtetrva"


def test_the_shares_are_as_asked_for():
    sides = [assigned_split(Text(f"text {number}"), 0.1, 0.3) for number in range(4000)]
    assert abs(sides.count("validation") / 4000 - 0.1) < 0.02
    assert abs(sides.count("test") / 4000 - 0.3) < 0.03


def test_more_validation_never_moves_a_prompt_back_into_training():
    records = [Prompt(f"prompt {number}") for number in range(200)]
    held_out = {record.prompt for record in records if assigned_split(record, 0.1, 0.0) == "validation"}
    assert held_out
    assert held_out < {record.prompt for record in records if assigned_split(record, 0.3, 0.0) == "validation"}


def test_a_greeting_of_the_assistant_does_not_throw_all_dialogues_together():
    hello = Message("assistant", "How can I help?")
    first, second = (Demonstration((hello, *dialogue(turn, "ok"))) for turn in ("one", "two"))
    assert opening(first) != opening(second)


def test_a_dialogue_of_the_assistant_alone_has_an_opening():
    first, second = (Demonstration((Message("assistant", turn),)) for turn in ("one", "two"))
    assert opening(first) != opening(second)


@pytest.mark.parametrize(("val_fraction", "test_fraction"), [(-0.1, 0), (0, 1.0), (0.5, 0.5), (float("nan"), 0)])
def test_fractions_leave_something_to_train_on(val_fraction, test_fraction):
    with pytest.raises(ConfigError, match="fraction must"):
        check_fractions(val_fraction, test_fraction)
