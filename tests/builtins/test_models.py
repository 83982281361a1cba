import pytest
import torch
from transformers import AutoTokenizer

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.errors import ConfigError


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, same, other = (TinyModel(hidden_size=16, seed=seed).load()[0] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    states = [torch.cat([tensor.flatten() for tensor in model.state_dict().values()]) for model in (first, same, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_weights_do_not_depend_on_the_default_dtype():
    expected = TinyModel(hidden_size=16).load()[0].lm_head.weight
    torch.set_default_dtype(torch.bfloat16)
    try:
        weight = TinyModel(hidden_size=16).load()[0].lm_head.weight
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("text", ["plain", "  spaces \n\n", "Grüße, 世界 🙂", "<s>?</s"])
def test_any_text_survives_encoding(text):
    tokenizer = TinyModel().load()[1]
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_one_token_per_byte_and_a_bos():
    tokenizer = TinyModel().load()[1]
    assert len(tokenizer) == 259
    assert tokenizer.encode("äb")[0] == tokenizer.bos_token_id
    assert len(tokenizer.encode("äb")) == 4


def test_special_tokens_are_distinct_and_survive_files(tmp_path):
    model, tokenizer = TinyModel(max_positions=77).load()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for each in (tokenizer, again):
        special = [each.bos_token_id, each.eos_token_id, each.pad_token_id]
        assert len(set(special)) == 3
        assert special == [model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id]
        assert each.model_max_length == 77
    assert again.encode("a b") == tokenizer.encode("a b")


@pytest.mark.parametrize("arguments", [{"hidden_size": 30}, {"num_layers": 0}, {"max_positions": 0}], ids=str)
def test_sizes_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError, match="of the tiny model must"):
        TinyModel(**arguments)
