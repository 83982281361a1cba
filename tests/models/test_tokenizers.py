from tokenizers import pre_tokenizers

from lightning_rlhf.models import stop_ids, tokenizers_equal
from lightning_rlhf.models.tokenizers import scoring_pad_id


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
