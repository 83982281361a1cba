import pytest
from tokenizers import pre_tokenizers
from transformers import GPT2Config

from lightning_rlhf.models import stop_ids, tokenizers_equal
from lightning_rlhf.models.tokenizers import end_with_a_token, scoring_pad_id


def test_the_padding_token_does_not_tell_tokenizers_apart(make_tokenizer):
    assert tokenizers_equal(make_tokenizer(), make_tokenizer(pad_token="Ġw9"))


def test_vocabulary_eos_and_rules_do(make_tokenizer):
    other_rules = make_tokenizer()
    other_rules.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert not tokenizers_equal(make_tokenizer(), make_tokenizer(60))
    assert not tokenizers_equal(make_tokenizer(), make_tokenizer(eos_token="Ġw9"))
    assert not tokenizers_equal(make_tokenizer(), other_rules)


def test_stop_ids_are_eos_and_the_stop_strings_of_one_token(make_tokenizer):
    assert stop_ids(make_tokenizer(), [" w5", " w5 w6", "<end>"]) == (0, 5)


def test_scores_are_padded_with_the_padding_token_where_it_ends_no_response(make_tokenizer):
    assert scoring_pad_id(make_tokenizer(pad_token="Ġw7"), [0]) == 7


def test_else_with_another_special_token(make_tokenizer):
    assert scoring_pad_id(make_tokenizer(unk_token="Ġw8"), [0]) == 8


def test_else_with_an_ordinary_token_that_is_no_stop(make_tokenizer):
    assert scoring_pad_id(make_tokenizer(), [0, 63]) == 62


@pytest.mark.parametrize(("named", "ended_by"), [(5, "Ġw5"), ([6, 7], "Ġw6"), (50256, "Ġw8"), (None, "Ġw8")])
def test_a_tokenizer_without_eos_ends_with_the_models_token_or_its_separator(make_tokenizer, caplog, named, ended_by):
    tokenizer = make_tokenizer(eos_token=None, sep_token="Ġw8")
    end_with_a_token(tokenizer, GPT2Config(eos_token_id=named))
    assert tokenizer.eos_token == ended_by
    assert repr(ended_by) in caplog.text


def test_a_tokenizer_with_eos_keeps_it(make_tokenizer, caplog):
    tokenizer = make_tokenizer(eos_token="Ġw4", sep_token="Ġw8")
    end_with_a_token(tokenizer, GPT2Config(eos_token_id=5))
    assert tokenizer.eos_token == "Ġw4"
    assert not caplog.text


def test_without_a_token_to_end_with_nothing_is_made_up(make_tokenizer):
    tokenizer = make_tokenizer(eos_token=None)
    end_with_a_token(tokenizer, GPT2Config(eos_token_id=None))
    assert tokenizer.eos_token is None
