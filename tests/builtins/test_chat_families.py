import pytest

from lightning_rlhf.builtins.chat_templates import TokenizerTemplate
from lightning_rlhf.data.rows import DemonstrationRows, Tally
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Demonstration, Message

DIALOGUE = (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Bye"), Message("assistant", "A b"))
SYSTEM = Message("system", "Be brief.")


@pytest.fixture
def formatter(family):
    return PromptFormatter(TokenizerTemplate(), family.tokenizer())


def dialogue(family):
    return (SYSTEM, *DIALOGUE) if family.system else DIALOGUE


def text(formatter, ids):
    return formatter.tokenizer.decode(ids)


def learned(formatter, row):
    """The runs of a row that are learned."""
    runs, before = [], False
    for index, flag in zip(*row, strict=True):
        if flag and not before:
            runs.append([])
        if flag:
            runs[-1].append(index)
        before = flag
    return [text(formatter, run) for run in runs]


def test_each_answer_is_learned_once_as_generation_writes_it(family, formatter):
    rows = formatter.encode_turns(dialogue(family))
    assert len(rows) == family.rows
    runs = [run for row in rows for run in learned(formatter, row)]
    assert runs == [f"{family.lead}{answer}{family.ending}" for answer in ("Hello!", "A b")]


@pytest.mark.parametrize("place", [0, 1])
def test_a_turn_with_the_weight_0_is_read_and_not_learned(family, formatter, place):
    messages = list(dialogue(family))
    turns = [number for number, message in enumerate(messages) if message.role == "assistant"]
    messages[turns[place]] = Message("assistant", messages[turns[place]].content, learned=False)
    rows = formatter.encode_turns(messages)
    assert [row.ids for row in rows] == [row.ids for row in formatter.encode_turns(dialogue(family))]
    runs = [run for row in rows for run in learned(formatter, row)]
    assert runs == [f"{family.lead}{('A b', 'Hello!')[place]}{family.ending}"]


def test_what_is_learned_follows_the_prompt_that_generation_sees(family, formatter):
    messages = dialogue(family)
    rows = [row.ids for row in formatter.encode_turns(messages)]
    for place, message in enumerate(messages):
        if message.role == "assistant":
            prompt = formatter.encode_prompt(messages[:place])
            whole = prompt + formatter.encode_response(messages[:place], message.content)
            assert any(row[: len(whole)] == whole for row in rows)
            chat = [{"role": turn.role, "content": turn.content} for turn in messages[:place]]
            rendered = formatter.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert text(formatter, prompt).removeprefix("".join(family.begins)) == rendered.removeprefix(
                "".join(family.begins)
            )


def test_the_last_answer_alone_is_one_row(family, formatter):
    record = Demonstration(dialogue(family))
    (row,) = DemonstrationRows(formatter, 999, "last").rows(record, Tally())
    assert learned(formatter, (row["input_ids"], row["supervised"])) == [f"{family.lead}A b{family.ending}"]


def test_a_dialogue_that_is_too_long_keeps_its_last_answers_whole(family, formatter):
    record, answers = (
        Demonstration(dialogue(family)),
        [f"{family.lead}{text}{family.ending}" for text in ("Hello!", "A b")],
    )
    longest = max(len(row.ids) for row in formatter.encode_turns(record.messages))
    tally = Tally()
    rows = list(DemonstrationRows(formatter, longest - 1).rows(record, tally))
    runs = [run for row in rows for run in learned(formatter, (row["input_ids"], row["supervised"]))]
    assert runs == (answers[1:] if family.rows == 1 else answers)
    assert all(len(row["input_ids"]) < longest for row in rows)
    assert (tally.num_truncated, tally.num_kept_tokens < tally.num_tokens) == (1, True)
    if family.system:
        assert all("Be brief." in text(formatter, row["input_ids"]) for row in rows)


def test_a_single_answer_is_one_row_that_ends_at_its_first_stop_token(family, formatter):
    messages = dialogue(family)[:-2]
    (row,) = formatter.encode_turns(messages)
    assert row == formatter.encode(messages)
    assert row.ids == formatter.encode_prompt(messages[:-1]) + formatter.encode_response(messages[:-1], "Hello!")
    response = row.ids[row.response_start :]
    assert [index in formatter.stop_ids for index in response] == [False] * (len(response) - 1) + [True]


def test_what_the_tokenizer_begins_a_text_with_is_there_once(family, formatter):
    ids = formatter.tokenizer.convert_tokens_to_ids(list(family.begins))
    for row in (formatter.encode_prompt(DIALOGUE[:1]), formatter.encode_text("Hi")):
        assert row[: len(ids)] == ids
        assert not ids or row[len(ids) : 2 * len(ids)] != ids


@pytest.mark.parametrize("name", ["qwen3", "glm4.5", "deepseek-r1", "deepseek-v3.1", "qwen3, marked"])
def test_the_thinking_of_an_answer_is_learned_although_the_history_drops_it(families, name):
    formatter = PromptFormatter(TokenizerTemplate(), families[name].tokenizer())
    answers = ["<think>\nbecause\n</think>\n\nHello!", "<think>\nso\n</think>\n\nA b"]
    messages = [DIALOGUE[0], Message("assistant", answers[0]), DIALOGUE[2], Message("assistant", answers[1])]
    rows = formatter.encode_turns(messages)
    runs = [run for row in rows for run in learned(formatter, row)]
    for run, place, thought in zip(runs, (1, 3), ("because", "so"), strict=True):
        prompt = text(formatter, formatter.encode_prompt(messages[:place]))
        assert run.endswith(text(formatter, formatter.encode_response(messages[:place], messages[place].content)))
        assert "".join((prompt + run).split()).count("<think>" + thought + "</think>") == 1
    assert ("because" in text(formatter, rows[-1].ids)) == (name == "qwen3, marked")


def test_gemma_refuses_a_system_turn_and_two_questions_in_a_row(families):
    formatter = PromptFormatter(TokenizerTemplate(), families["gemma"].tokenizer())
    with pytest.raises(TemplateError, match="no system turn"):
        formatter.encode((SYSTEM, *DIALOGUE))
    with pytest.raises(TemplateError, match="turns must alternate"):
        formatter.encode((*DIALOGUE[:1], *DIALOGUE))
