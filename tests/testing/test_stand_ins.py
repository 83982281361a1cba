import pytest

from lightning_rlhf.testing import HOSTILE_TEXTS, byte_tokenizer, tiny_model, word_tokenizer


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: ascii(text[:12]))
def test_the_byte_tokenizer_gives_every_text_back(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == text


def test_markers_are_single_special_tokens_where_they_are_asked_for():
    for tokenizer in (byte_tokenizer(["<|end|>", "<|end|>"]), word_tokenizer(["hi"], ["<|end|>"])):
        assert len(tokenizer.encode("<|end|>")) == 1
        assert "<|end|>" in tokenizer.all_special_tokens
    assert len(byte_tokenizer().encode("<|end|>")) == 7


def test_a_bos_is_put_before_a_text_where_it_is_asked_for():
    assert byte_tokenizer(bos=True).decode(byte_tokenizer(bos=True).encode("hi")) == "<s>hi"
    assert byte_tokenizer().decode(byte_tokenizer().encode("hi")) == "hi"


def test_the_word_tokenizer_has_a_token_a_word_and_gives_its_texts_back():
    text = "The cat, the mat:\n我们 42."
    tokenizer = word_tokenizer([text])
    ids = tokenizer.encode(text)
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["The", " cat", ","]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("dog") == [tokenizer.unk_token_id]


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), word_tokenizer(["hello"])], ids=["bytes", "words"])
def test_pad_bos_and_eos_are_distinct_and_a_chat_template_marks_what_the_assistant_says(tokenizer):
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered == "<|user|>\nhello<|assistant|>\nhello</s>"


def test_the_tiny_model_is_small_and_the_same_each_time():
    first, again, other = tiny_model(), tiny_model(), tiny_model(seed=1)
    assert sum(weight.numel() for weight in first.model.parameters()) < 20_000
    weights = [loaded.model.get_input_embeddings().weight for loaded in (first, again, other)]
    assert (weights[0] == weights[1]).all()
    assert not (weights[0] == weights[2]).all()
