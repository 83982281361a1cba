import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.builtins.templates import (
    AlpacaTemplate,
    ChatMLTemplate,
    HumanAssistantTemplate,
    PlainTemplate,
    TokenizerTemplate,
)
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import (
    LanguageModel,
    LoRA,
    RecordedTemplate,
    ScalarModel,
    add_adapter,
    build_actor_critic,
    load_base,
    save_language_model,
    save_reward_model,
)
from lightning_rlhf.plugin_system.interfaces import PromptTemplate
from lightning_rlhf.records import Message

DIALOGUE = (Message("user", "What is 1 + 1?"), Message("assistant", "2"), Message("user", "And {{ 2 }}?"))


@pytest.fixture
def logits(make_tokens, rows):
    def of(model):
        tokens = make_tokens(rows)
        with torch.no_grad():
            return LanguageModel(model)(tokens, tokens.attention_mask).logits

    return of


@pytest.fixture
def transformers_log(caplog):
    """What transformers says, besides raising."""
    with caplog.at_level(logging.WARNING, logger="transformers"):
        yield caplog


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "gemma2", "qwen2"])
def test_transformers_loads_the_same_model_without_a_warning(
    architecture, load_tiny, logits, tmp_path, transformers_log
):
    loaded = load_tiny(architecture)
    save_language_model(LanguageModel(loaded.model), loaded.tokenizer, tmp_path / "model", None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again), logits(loaded.model))
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".safetensors", ".json"}
    again.generate(torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2, dtype=torch.int64), max_new_tokens=2)
    assert not transformers_log.records


def test_merging_at_export_leaves_training_untouched(load_tiny, logits, tmp_path):
    models = build_actor_critic(load_tiny("gpt2"), adapter=LoRA())
    for parameter in [*models.policy_parameters(), *models.value_parameters()]:
        parameter.data += 0.1
    before = {key: tensor.clone() for key, tensor in models.state_dict().items()}
    save_language_model(models.policy_for_export(), load_tiny("gpt2").tokenizer, tmp_path / "model", None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(again), logits(models.generation_model), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(before[key], tensor) for key, tensor in models.state_dict().items())


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_adapter_saved_alone_finds_its_base_again(architecture, load_tiny, logits, tmp_path, monkeypatch):
    loaded = load_tiny(architecture)
    monkeypatch.chdir(tmp_path)
    save_language_model(loaded.model, loaded.tokenizer, "base", None)
    model = add_adapter(load_base("base").model, LoRA(rank=2))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    save_language_model(model, loaded.tokenizer, "adapter", None, merge_adapters=False)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    torch.testing.assert_close(logits(load_base("../adapter").model), logits(model), atol=1e-4, rtol=1e-3)


def test_an_adapter_alone_needs_a_base_that_can_be_loaded_again(tmp_path):
    loaded = load_base("tiny")
    model = add_adapter(loaded.model, LoRA())
    with pytest.raises(ModelError, match="path or hub id"):
        save_language_model(model, loaded.tokenizer, tmp_path / "model", None, merge_adapters=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["someone/a-model", "someone/a-model-of.7b"])
def test_an_adapter_alone_keeps_the_hub_id_of_its_base(name, load_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_tiny("llama")
    loaded.model.name_or_path = name
    model = add_adapter(loaded.model, LoRA(rank=2))
    save_language_model(model, loaded.tokenizer, "model", None, merge_adapters=False)
    settings = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == name
    assert settings["inference_mode"]
    assert settings["r"] == 2


class TestTemplates:
    @pytest.mark.parametrize("template", [PlainTemplate, AlpacaTemplate, ChatMLTemplate, HumanAssistantTemplate])
    def test_the_record_comes_back_and_the_chat_template_renders_the_same(self, template, tmp_path):
        model, tokenizer = TinyModel(hidden_size=16).load()
        record = RecordedTemplate.of(template())
        save_language_model(model, tokenizer, tmp_path, record)
        loaded = load_base(str(tmp_path))
        assert loaded.template == record
        rendered = "".join(segment.text for segment in loaded.template.create().generation_prompt(DIALOGUE))
        chat = [{"role": message.role, "content": message.content} for message in DIALOGUE]
        theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        assert theirs.replace(tokenizer.eos_token, "") == rendered

    def test_the_tokenizers_own_chat_template_stays(self, tmp_path):
        model, tokenizer = TinyModel(hidden_size=16).load()
        tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        record = RecordedTemplate.of(TokenizerTemplate())
        save_language_model(model, tokenizer, tmp_path, record)
        assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template

    def test_a_template_without_a_jinja_form_leaves_no_other_behind(self, tmp_path, monkeypatch, make_tokenizer):
        class Bare(PromptTemplate):
            def render(self, messages):
                return []

        model, tokenizer = TinyModel(hidden_size=16).load()
        tokenizer.chat_template = "another"
        monkeypatch.setattr(RecordedTemplate, "create", lambda self: Bare())
        save_language_model(model, tokenizer, tmp_path, RecordedTemplate("some.Bare"))
        assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
        assert tokenizer.chat_template == "another"

    def test_a_template_that_cannot_be_made_again_does_not_lose_the_model(self, tmp_path, caplog):
        model, tokenizer = TinyModel(hidden_size=16).load()
        save_language_model(model, tokenizer, tmp_path, RecordedTemplate("no_such_package.Template"))
        assert "no chat template is written" in caplog.text
        assert load_base(str(tmp_path)).template == RecordedTemplate("no_such_package.Template")

    def test_generation_ends_at_every_stop_token(self, load_tiny, tmp_path):
        loaded = load_tiny("gpt2")
        record = RecordedTemplate("no_such_package.Template", stop=(" w7", "not one token"))
        save_language_model(loaded.model, loaded.tokenizer, tmp_path, record)
        assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == [0, 7]

    def test_a_reward_model_records_it_too_and_does_not_pad_with_a_stop_token(self, load_tiny, tmp_path):
        model = ScalarModel.from_language_model(load_tiny("gpt2"))
        tokenizer = load_tiny("gpt2").tokenizer
        record = RecordedTemplate("no_such_package.Template", stop=(" w63",))
        save_reward_model(model, tokenizer, tmp_path, record)
        loaded = ScalarModel.load(str(tmp_path))
        assert loaded.template == record
        assert loaded.tokenizer.pad_token_id == json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == 62
        assert len(loaded.tokenizer) == len(tokenizer)
        assert tokenizer.pad_token_id == 0


class TestReplacing:
    def test_a_directory_is_replaced_whole(self, load_tiny, logits, tmp_path):
        for seed in (0, 1):
            loaded = load_tiny("llama", seed=seed)
            save_language_model(loaded.model, loaded.tokenizer, tmp_path / "model", None)
            (tmp_path / "model" / "stale").touch()
        save_language_model(loaded.model, loaded.tokenizer, tmp_path / "model", None)
        assert not (tmp_path / "model" / "stale").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert torch.equal(logits(again), logits(loaded.model))

    def test_a_failure_leaves_the_old_directory(self, load_tiny, tmp_path, monkeypatch):
        loaded = load_tiny("llama")
        save_language_model(loaded.model, loaded.tokenizer, tmp_path / "model", None)
        before = (tmp_path / "model" / "config.json").read_bytes()

        def fail(*args, **kwargs):
            raise OSError("no space left on device")

        monkeypatch.setattr(type(loaded.tokenizer), "save_pretrained", fail)
        with pytest.raises(OSError, match="no space"):
            save_language_model(loaded.model, loaded.tokenizer, tmp_path / "model", None)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert (tmp_path / "model" / "config.json").read_bytes() == before


def test_a_model_that_cannot_be_put_in_place_leaves_the_one_that_was_there(load_tiny, tmp_path, monkeypatch):
    loaded = load_tiny("gpt2")
    path = tmp_path / "model"
    save_language_model(loaded.model, loaded.tokenizer, path, None)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    rename = Path.rename

    def refused(self, target):
        if "new" in self.name:
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="the disk is gone"):
        save_language_model(loaded.model, loaded.tokenizer, path, None)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
