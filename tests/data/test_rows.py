import json
from pathlib import Path

import numpy as np
import pytest

from lightning_rlhf.data.rows import DemonstrationRows, PromptRows, RankingRows, Tally
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.errors import ConfigError, DataError, RecordError
from lightning_rlhf.plugin_system.interfaces import RankingConverter, Segment
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking, Text

DIALOGUE = Demonstration(
    (Message("user", "abcdef"), Message("assistant", "gh"), Message("user", "ij"), Message("assistant", "klmn"))
)


class Linear(RankingConverter):
    def __call__(self, ranks):
        worst = np.maximum(np.nanmax(ranks, axis=1, keepdims=True), 1)
        rewards = 1 - 2 * ranks / worst
        ranked = ~np.isnan(rewards)
        number = ranked.sum(0)
        return np.where(number > 0, np.where(ranked, rewards, 0).sum(0) / np.maximum(number, 1), np.nan)


@pytest.fixture
def formatter(fakes):
    return PromptFormatter(fakes.JoinedTemplate(), fakes.byte_tokenizer())


@pytest.fixture
def with_bos(fakes):
    return PromptFormatter(fakes.JoinedTemplate(), fakes.byte_tokenizer(bos=True))


def only(tokenization, record, tally=None):
    (row,) = tokenization.rows(record, tally or Tally())
    return row


def learned(row, formatter):
    return formatter.tokenizer.decode([i for i, flag in zip(row["input_ids"], row["supervised"], strict=True) if flag])


def test_all_assistant_turns_are_learned_or_the_last(formatter):
    assert learned(only(DemonstrationRows(formatter, 99), DIALOGUE), formatter) == "gh</s>klmn</s>"
    assert learned(only(DemonstrationRows(formatter, 99, "last"), DIALOGUE), formatter) == "klmn</s>"


def test_counts_are_what_a_shifted_loss_reads(formatter):
    row = only(DemonstrationRows(formatter, 99), DIALOGUE)
    assert row["num_targets"] == sum(row["supervised"][1:]) == 8
    assert row["num_tokens"] == len(row["input_ids"]) - 1


def test_the_first_token_is_never_a_target(formatter):
    row = only(DemonstrationRows(formatter, 99), Demonstration((Message("assistant", "xyz"),)))
    assert row["supervised"] == [False, True, True, True]


def test_truncation_keeps_the_end_of_the_prompt_and_is_counted(formatter):
    tally = Tally()
    record = Demonstration((Message("user", "abcdefgh"), Message("assistant", "xyz")))
    row = only(DemonstrationRows(formatter, 8), record, tally)
    assert formatter.tokenizer.decode(row["input_ids"]) == "efghxyz</s>"
    assert learned(row, formatter) == "xyz</s>"
    assert tally.num_truncated == 1


def test_truncation_keeps_the_bos(with_bos):
    record = Demonstration((Message("user", "abcdefgh"), Message("assistant", "xyz")))
    row = only(DemonstrationRows(with_bos, 8), record)
    assert with_bos.tokenizer.decode(row["input_ids"]) == "<s>fghxyz</s>"
    assert learned(row, with_bos) == "xyz</s>"


def test_a_response_that_is_cut_at_its_end_gets_no_stop_token(formatter):
    record = Demonstration((Message("user", "ab"), Message("assistant", "uvwxyz")))
    row = only(DemonstrationRows(formatter, 6, truncation="right"), record)
    assert formatter.tokenizer.decode(row["input_ids"]) == "abuvwx"
    assert learned(row, formatter) == "uvwx"


def lost(tally):
    return tally.num_tokens - tally.num_kept_tokens, tally.num_targets - tally.num_kept_targets


def test_whole_turns_go_first_and_half_an_answer_is_never_learned(fakes):
    formatter = PromptFormatter(fakes.MarkedTemplate(), fakes.byte_tokenizer())
    turns = [("system", "s"), ("user", "abc"), ("assistant", "def"), ("user", "ghi"), ("assistant", "jkl")]
    record = Demonstration(tuple(Message(role, text) for role, text in turns))
    whole = only(DemonstrationRows(formatter, 99), record)
    tally = Tally()
    row = only(DemonstrationRows(formatter, len(whole["input_ids"]) - 1), record, tally)
    kept = "<|system|>s<|end|>\n<|user|>ghi<|end|>\n<|assistant|>jkl<|end|>"
    assert formatter.tokenizer.decode(row["input_ids"]) == kept
    assert learned(row, formatter) == "jkl<|end|>"
    assert lost(tally) == (len(whole["input_ids"]) - len(row["input_ids"]), whole["num_targets"] - row["num_targets"])
    assert (tally.num_truncated, tally.num_too_long, tally.num_records) == (1, 0, 1)


@pytest.mark.parametrize("truncation", ["turns", "drop"])
def test_a_row_whose_answer_does_not_fit_is_left_out_and_counted(formatter, truncation):
    tally = Tally()
    record = Demonstration((Message("user", "abcdefgh"), Message("assistant", "qrstuvwxyz")))
    assert list(DemonstrationRows(formatter, 6, truncation=truncation).rows(record, tally)) == []
    assert (tally.num_too_long, tally.num_truncated) == (1, 0)
    assert lost(tally) == (19, 11)
    assert tally.losses == "0.0% of 19 tokens are kept, 0.0% of 11 learned ones"


def test_an_answer_that_does_not_fit_leaves_those_before_it(formatter):
    turns = ("user", "ab"), ("assistant", "cd"), ("user", "e"), ("assistant", "0123456789")
    record = Demonstration(tuple(Message(role, text) for role, text in turns))
    assert learned(only(DemonstrationRows(formatter, 8), record), formatter) == "cd</s>"
    assert list(DemonstrationRows(formatter, 8, "last").rows(record, Tally())) == []


def test_from_the_left_a_turn_that_lost_its_beginning_is_not_learned(with_bos):
    tally = Tally()
    row = only(DemonstrationRows(with_bos, 10, truncation="left"), DIALOGUE, tally)
    assert with_bos.tokenizer.decode(row["input_ids"]) == "<s>h</s>ijklmn</s>"
    assert learned(row, with_bos) == "klmn</s>"
    assert tally.num_truncated == 1


def test_a_bos_that_is_a_turn_marker_does_not_stand_before_a_cut_row(fakes):
    class BosTurns(fakes.MarkedTemplate):
        def render(self, messages):
            return [
                Segment(s.text.replace("<|user|>", "<s>").replace("<|assistant|>", "<s>"), s.supervised, s.control)
                for s in super().render(messages)
            ]

    formatter = PromptFormatter(BosTurns(), fakes.byte_tokenizer())
    record = Demonstration((Message("user", "abcdefgh"), Message("assistant", "xyz")))
    for truncation, text in (("left", "fgh<|end|>\n<s>xyz<|end|>"), ("turns", "<s>gh<|end|>\n<s>xyz<|end|>")):
        row = only(DemonstrationRows(formatter, 10, truncation=truncation), record)
        assert formatter.tokenizer.decode(row["input_ids"]) == text
        prompt = only(PromptRows(formatter, 6, truncation), Prompt("abcdefgh"))
        assert formatter.tokenizer.decode(prompt["prompt_ids"]) == text.removesuffix("xyz<|end|>")


def test_a_long_row_becomes_windows_that_learn_every_token_once(formatter):
    tally = Tally()
    record = Demonstration((Message("user", "abcdef"), Message("assistant", "0123456789")))
    rows = list(DemonstrationRows(formatter, 5, truncation="window").rows(record, tally))
    assert "".join(learned(row, formatter) for row in rows) == "0123456789</s>"
    assert all(len(row["input_ids"]) <= 5 for row in rows)
    assert (tally.num_split, tally.num_targets - tally.num_kept_targets) == (1, 0)


@pytest.mark.parametrize(
    ("truncation", "texts"),
    [("turns", ["abcd", "defg", "ghij", "j</s>"]), ("left", ["hij</s>"]), ("right", ["abcd"]), ("drop", [])],
)
def test_a_document_becomes_pieces_unless_its_end_or_beginning_is_to_go(formatter, truncation, texts):
    rows = DemonstrationRows(formatter, 4, truncation=truncation).rows(Text("abcdefghij"), Tally())
    assert [formatter.tokenizer.decode(row["input_ids"]) for row in rows] == texts


def test_a_row_without_a_supervised_token_is_bad(fakes):
    class Unsupervised(fakes.MarkedTemplate):
        def render(self, messages):
            from lightning_rlhf.plugin_system.interfaces import Segment

            return [Segment(segment.text, False, segment.control) for segment in super().render(messages)]

    formatter = PromptFormatter(Unsupervised(), fakes.byte_tokenizer())
    with pytest.raises(RecordError, match="must keep at least one supervised token"):
        only(DemonstrationRows(formatter, 99), DIALOGUE)


def test_every_token_of_a_text_but_the_first_is_learned_once(formatter):
    text = "abcdefghij" * 3
    rows = list(DemonstrationRows(formatter, 7).rows(Text(text), Tally()))
    whole = formatter.encode_text(text)
    assert all(2 <= len(row["input_ids"]) <= 7 for row in rows)
    targets = [i for row in rows for i, flag in zip(row["input_ids"], row["supervised"], strict=True) if flag]
    assert targets == whole[1:]
    assert rows[0]["input_ids"][0] == whole[0]
    assert sum(row["num_tokens"] for row in rows) == len(whole) - 1


def test_a_text_of_one_token_is_bad(fakes):
    template = fakes.MarkedTemplate()
    formatter = PromptFormatter(template, fakes.byte_tokenizer(eos=None))
    with pytest.raises(RecordError, match="at least two tokens"):
        list(DemonstrationRows(formatter, 7).rows(Text("a"), Tally()))


def test_ranks_are_dense_and_of_all_annotators(formatter):
    record = Ranking("p", ("a", "b", "c"), ((0, 1, 2), (1, 0, 2), (None, 0, 3)))
    row = only(RankingRows(formatter, 99, Linear()), record)
    # rewards: a = (1 + 0) / 2, b = (0 + 1 + 1) / 3, c = -1
    assert row["ranks"] == [1, 0, 2]
    assert row["rewards"] == pytest.approx([0.5, 2 / 3, -1])
    assert row["num_prompts"] == 1


def test_sums_that_differ_in_the_last_digit_tie(formatter):
    class Noisy(RankingConverter):
        def __call__(self, ranks):
            return np.array([0.1 + 0.2, 0.3, -1.0])

    row = only(RankingRows(formatter, 99, Noisy()), Ranking("p", ("a", "b", "c"), (0, 0, 1)))
    assert row["ranks"] == [0, 0, 1]


def test_unranked_candidates_are_masked_and_not_tokenized(formatter):
    row = only(RankingRows(formatter, 99, Linear()), Ranking("p", ("a", "b", "c"), (0, None, 1)))
    assert row["candidates"] == [True, False, True]
    assert row["ranks"] == [0, 0, 1]
    assert row["rewards"] == [1, 0, -1]
    assert [len(response) for response in row["responses"]] == [2, 0, 2]


@pytest.mark.parametrize("ranks", [(0, 0, 0), (0, None, None), (None, None, None)])
def test_a_ranking_without_an_ordered_pair_is_left_out_and_counted(formatter, ranks):
    tally = Tally()
    record = Ranking("p", ("a", "b", "c"), ranks)
    assert list(RankingRows(formatter, 99, Linear()).rows(record, tally)) == []
    assert tally.num_unordered == 1


def test_predictions_keep_what_cannot_be_compared(formatter):
    row = only(RankingRows(formatter, 99, Linear(), keep_all=True), Ranking("p", ("a", "b", "c"), (0, 0, None)))
    assert row["candidates"] == [True, True, True]
    assert all(row["responses"])
    assert row["num_prompts"] == 0


def test_a_rows_scores_are_its_targets_and_the_converters_its_rewards(formatter):
    row = only(RankingRows(formatter, 99, Linear()), Ranking("p", ("a", "b"), None, scores=(0.25, 4.0)))
    assert row["ranks"] == [1, 0]
    assert row["rewards"] == [-1.0, 1.0]
    assert row["targets"] == [0.25, 4.0]
    row = only(RankingRows(formatter, 99, Linear()), Ranking("p", ("a", "b"), (0, 1)))
    assert row["targets"] == row["rewards"] == [1.0, -1.0]


@pytest.mark.parametrize("max_length", [99, 10])
def test_a_turn_with_the_weight_0_is_not_learned_whole_or_cut(formatter, max_length):
    first, second = Message("assistant", "gh", learned=False), Message("assistant", "klmn")
    record = Demonstration((Message("user", "abcdef"), first, Message("user", "ij"), second))
    assert learned(only(DemonstrationRows(formatter, max_length), record), formatter) == "klmn</s>"
    record = Demonstration((Message("user", "abcdef"), second, Message("user", "ij"), first))
    assert learned(only(DemonstrationRows(formatter, 99), record), formatter) == "klmn</s>"


@pytest.mark.parametrize(("ranks", "rewards"), [((0, 1), [0.75, -0.75]), ((1, 0), [-0.75, 0.75])])
def test_a_rows_own_margin_is_the_difference_of_its_rewards(formatter, ranks, rewards):
    tally = Tally()
    row = only(RankingRows(formatter, 99, Linear()), Ranking("p", ("a", "b"), ranks, margin=1.5), tally)
    assert (row["rewards"], row["ranks"], tally.num_margins) == (rewards, list(ranks), 1)


def test_a_ranked_response_without_a_score_is_bad(formatter):
    with pytest.raises(RecordError, match="scores must be there for every ranked response"):
        only(RankingRows(formatter, 99, Linear()), Ranking("p", ("a", "b"), (0, 1), scores=(1.0, None)))


def test_the_prompt_is_cut_alike_for_all_candidates(formatter):
    tally = Tally()
    record = Ranking("abcdefgh", ("x", "uvwxyz"), (0, 1))
    row = only(RankingRows(formatter, 12, Linear()), record, tally)
    assert formatter.tokenizer.decode(row["prompt_ids"]) == "defgh"
    assert [formatter.tokenizer.decode(response) for response in row["responses"]] == ["x</s>", "uvwxyz</s>"]
    assert (tally.num_truncated, *lost(tally)) == (1, 3, 0)


@pytest.mark.parametrize(
    ("truncation", "prompt", "responses"),
    [
        ("turns", "defgh", ["x</s>", "yz</s>", ""]),
        ("left", "h", ["x</s>", "yz</s>", "uvwxyz</s>"]),
        ("right", "efgh", ["x</s>", "yz</s>", "uvwx"]),
        ("drop", "", []),
    ],
)
def test_a_response_that_does_not_fit_is_left_out_of_a_ranking(formatter, truncation, prompt, responses):
    tally = Tally()
    record = Ranking("abcdefgh", ("x", "yz", "uvwxyz"), (0, 1, 2))
    rows = list(RankingRows(formatter, 8, Linear(), truncation=truncation).rows(record, tally))
    if not responses:
        assert (rows, tally.num_too_long) == ([], 1)
        return
    (row,) = rows
    assert formatter.tokenizer.decode(row["prompt_ids"]) == prompt
    assert [formatter.tokenizer.decode(response) for response in row["responses"]] == responses
    assert row["candidates"] == [bool(response) for response in responses]
    assert row["num_prompts"] == 1


def test_a_ranking_of_which_fewer_than_two_responses_fit_is_left_out_and_what_is_scored_is_cut(formatter):
    tally = Tally()
    record = Ranking("ab", ("x", "uvwxyz"), (0, 1))
    assert list(RankingRows(formatter, 6, Linear()).rows(record, tally)) == []
    assert (tally.num_too_long, tally.num_unordered) == (1, 0)
    row = only(RankingRows(formatter, 6, Linear(), keep_all=True), record)
    assert [formatter.tokenizer.decode(response) for response in row["responses"]] == ["x</s>", "uvwx"]
    row = only(RankingRows(formatter, 6, Linear(), truncation="right"), record)
    assert [formatter.tokenizer.decode(response) for response in row["responses"]] == ["x</s>", "uvwx"]


@pytest.mark.parametrize("rewards", [[1.0], [1.0, np.inf], [1.0, np.nan]])
def test_a_converter_that_returns_something_else_is_named(formatter, rewards):
    class Broken(RankingConverter):
        def __call__(self, ranks):
            return np.array(rewards)

    with pytest.raises(ConfigError, match="Broken must return one finite reward per ranked candidate"):
        only(RankingRows(formatter, 99, Broken()), Ranking("p", ("a", "b"), (0, 1)))


def test_prompts_keep_their_end_and_their_columns(with_bos):
    tally = Tally()
    row = only(PromptRows(with_bos, 4), Prompt("abcdefgh", {"label": 3, "tags": ["x", None]}), tally)
    assert with_bos.tokenizer.decode(row["prompt_ids"]) == "<s>fgh"
    assert row["text"] == "fgh"
    assert json.loads(row["columns"]) == {"label": 3, "tags": ["x", None]}
    assert json.loads(row["messages"]) == [["user", "fgh"]]
    assert tally.num_truncated == 1


@pytest.mark.parametrize(("truncation", "text"), [("turns", "sgh"), ("left", "fgh"), ("right", ""), ("drop", "")])
def test_a_prompt_that_is_too_long_loses_what_truncation_names(formatter, truncation, text):
    turns = ("system", "s"), ("user", "ab"), ("assistant", "c"), ("user", "defgh")
    record = Prompt(tuple(Message(role, content) for role, content in turns))
    tally = Tally()
    rows = list(PromptRows(formatter, 3, truncation).rows(record, tally))
    assert [formatter.tokenizer.decode(row["prompt_ids"]) for row in rows] == [text] * bool(text)
    assert (tally.num_truncated, tally.num_too_long) == (len(rows), 1 - len(rows))


def test_demonstrations_and_rankings_give_their_prompts(formatter):
    row = only(PromptRows(formatter, 99), DIALOGUE)
    assert formatter.tokenizer.decode(row["prompt_ids"]) == "abcdefgh</s>ij"
    assert json.loads(row["columns"]) == {"response": "klmn"}
    assert only(PromptRows(formatter, 99), Ranking("ab", ("x", "y"), (0, 1)))["text"] == "ab"


def test_an_empty_prompt_is_bad_unless_there_is_a_bos(formatter, with_bos):
    with pytest.raises(RecordError, match="at least one token"):
        only(PromptRows(formatter, 99), Prompt(""))
    assert only(PromptRows(with_bos, 99), Prompt(""))["prompt_ids"] == [with_bos.tokenizer.bos_token_id]


def test_columns_that_json_cannot_hold_are_bad(formatter):
    with pytest.raises(RecordError, match="must hold JSON values"):
        only(PromptRows(formatter, 99), Prompt("a", {"file": Path("x")}))


@pytest.mark.parametrize(
    ("record", "reader"),
    [
        (Ranking("p", ("a", "b"), (0, 1)), "RankingData reads those"),
        (Prompt("p"), "PromptData reads those"),
    ],
)
def test_demonstration_data_names_the_module_that_reads_another_kind(formatter, record, reader):
    with pytest.raises(DataError, match=f"DemonstrationData must read demonstrations or texts, .*{reader}"):
        only(DemonstrationRows(formatter, 99), record)


def test_the_other_modules_name_the_module_that_reads_another_kind(formatter):
    with pytest.raises(DataError, match=r"RankingData must read rankings.* DemonstrationData reads those"):
        only(RankingRows(formatter, 99, Linear()), DIALOGUE)
    with pytest.raises(DataError, match=r"got a record of the class Text\. DemonstrationData"):
        only(PromptRows(formatter, 99), Text("a"))
