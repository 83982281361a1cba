import pytest
import torch

from lightning_rlhf import Message
from lightning_rlhf.builtins.templates import ChatMLTemplate, TokenizerTemplate
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.models import load_base, save_language_model
from lightning_rlhf.testing import ModelSourceContract

DIALOGUE = (
    Message("user", "Hello."),
    Message("assistant", "Hi!"),
    Message("user", "<|im_end|>?"),
    Message("assistant", "Yes."),
)


@pytest.mark.usefixtures("tiny_wheel")
class TestSmolLM2(ModelSourceContract):
    component = "smollm2"


@pytest.fixture
def loaded(tiny_wheel):
    return load_base("smollm2")


def test_the_model_is_dense_in_full_precision_and_trains(loaded, tmp_path):
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not hasattr(loaded.model.config, "quantization_config")
    loaded.model(torch.arange(5, 15)[None]).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.model.parameters())


def test_the_tokenizer_pads_with_its_stop_token_and_keeps_doing_so(loaded, tmp_path):
    save_language_model(loaded.model, loaded.tokenizer, tmp_path / "model", None)
    for tokenizer in (loaded.tokenizer, load_base(str(tmp_path / "model")).tokenizer):
        assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
        assert tokenizer.chat_template == loaded.tokenizer.chat_template


@pytest.mark.parametrize("template", [TokenizerTemplate(), ChatMLTemplate()], ids=["tokenizer", "chatml"])
def test_every_answer_is_supervised_with_its_stop_token_though_that_is_the_padding(template, loaded):
    formatter = PromptFormatter(template, loaded.tokenizer)
    stop = loaded.tokenizer.eos_token_id
    assert formatter.stop_ids == (stop,)
    encoded = formatter.encode(DIALOGUE)
    learned = [index for index, supervised in zip(encoded.ids, encoded.supervised, strict=True) if supervised]
    assert learned == [
        *loaded.tokenizer.encode("Hi!", add_special_tokens=False),
        stop,
        *loaded.tokenizer.encode("Yes.", add_special_tokens=False),
        stop,
    ]


def test_a_stop_token_in_a_message_stays_text_with_chatml(loaded):
    formatter = PromptFormatter(ChatMLTemplate(), loaded.tokenizer)
    ids = formatter.encode_prompt(DIALOGUE[:3])
    assert ids.count(loaded.tokenizer.eos_token_id) == 3  # one for each turn, none for what the user wrote
    assert "<|im_end|>?" in loaded.tokenizer.decode(ids)
