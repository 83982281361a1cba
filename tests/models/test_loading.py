import json
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlavaConfig, T5Config

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LanguageModel, load_base, save_language_model
from lightning_rlhf.plugin_system.interfaces import ModelSource


@pytest.fixture
def saved(load_tiny, tmp_path):
    """`saved(architecture)`: path of a saved model."""

    def save(architecture="llama"):
        loaded = load_tiny(architecture)
        save_language_model(loaded.model, loaded.tokenizer, tmp_path / architecture, None)
        return tmp_path / architecture

    return save


@pytest.fixture
def logits(make_tokens, rows):
    def of(model):
        tokens = make_tokens(rows)
        with torch.no_grad():
            return LanguageModel(model)(tokens, tokens.attention_mask).logits

    return of


class TestNames:
    def test_a_component_is_found_by_name_and_taken_as_it_is(self):
        by_name, by_object = load_base("tiny"), load_base(TinyModel())
        assert torch.equal(by_name.model.lm_head.weight, by_object.model.lm_head.weight)
        assert by_name.template is None

    def test_a_directory_is_loaded_in_fp32_and_evaluation_mode(self, saved, logits, tiny):
        loaded = load_base(str(saved()))
        assert loaded.model.dtype == torch.float32
        assert not loaded.model.training
        assert all(parameter.requires_grad for parameter in loaded.model.parameters())
        assert torch.equal(logits(loaded.model), logits(tiny("llama")))

    def test_half_precision_files_become_fp32(self, load_tiny, tmp_path):
        loaded = load_tiny("llama")
        save_language_model(loaded.model.to(torch.bfloat16), loaded.tokenizer, tmp_path / "half", None)
        assert load_base(str(tmp_path / "half")).model.dtype == torch.float32

    def test_the_root_of_a_run_hints_at_its_model(self, saved):
        path = saved()
        path.rename(path.with_name("model"))
        with pytest.raises(ModelError, match=r"without. Did you mean .*model\?"):
            load_base(str(path.parent))

    def test_a_name_that_is_a_component_and_a_path_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "tiny").mkdir()
        with pytest.raises(ModelError, match=r"which is a model component and a path. Write \./tiny"):
            load_base("tiny")

    @pytest.mark.parametrize("name", ["tinny", "Tiny-2"])
    def test_any_other_bare_name_lists_the_components(self, name):
        with pytest.raises(ModelError, match="tiny"):
            load_base(name)

    @pytest.mark.parametrize("name", ["./runs/model", "/runs/sft/model", "runs/sft-0/model", "model.gguf"])
    def test_a_path_that_does_not_exist_is_named(self, name):
        with pytest.raises(ModelError, match=r"existing path, got '.*', which does not exist"):
            load_base(name)

    def test_a_hub_id_that_cannot_be_reached_is_named(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="'nobody/nothing' must be a model that transformers can load"):
            load_base("nobody/nothing")

    def test_a_directory_without_a_config_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match=r"config\.json"):
            load_base(str(tmp_path))

    def test_another_kind_of_file_is_refused(self, tmp_path):
        (tmp_path / "weights.bin").touch()
        with pytest.raises(ModelError, match=r"\.gguf file"):
            load_base(str(tmp_path / "weights.bin"))


class TestComponents:
    def test_what_load_returns_is_checked(self):
        class Half(ModelSource):
            def load(self):
                return None, None

        class Headless(ModelSource):
            def load(self):
                model, tokenizer = TinyModel().load()
                return model.base_model, tokenizer

        for source in (Half(), Headless()):
            with pytest.raises(ModelError, match="must return a causal language model"):
                load_base(source)

    def test_sampling_settings_are_not_inherited(self):
        class Sampling(ModelSource):
            def load(self):
                model, tokenizer = TinyModel().load()
                model.generation_config.top_k = 5
                model.generation_config.repetition_penalty = 1.2
                return model, tokenizer

        generation = load_base(Sampling()).model.generation_config
        assert generation.top_k is None
        assert generation.repetition_penalty is None
        assert (generation.eos_token_id, generation.pad_token_id) == (2, 0)


class TestFiles:
    def test_pickled_code_is_never_run(self, saved, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        path = saved()
        (path / "model.safetensors").unlink()
        with (path / "pytorch_model.bin").open("wb") as file:
            pickle.dump({"lm_head.weight": Trap()}, file, protocol=2)
        with pytest.raises(ModelError):
            load_base(str(path))
        torch.save({"lm_head.weight": Trap()}, path / "pytorch_model.bin")
        with pytest.raises(ModelError):
            load_base(str(path))
        assert not (tmp_path / "sprung").exists()

    def test_a_pickle_beside_the_safetensors_is_not_looked_at(self, saved, logits, tiny):
        path = saved()
        (path / "pytorch_model.bin").write_bytes(b"no pickle at all")
        assert torch.equal(logits(load_base(str(path)).model), logits(tiny("llama")))

    def test_even_plain_tensors_in_a_pickle_are_refused_with_the_way_to_convert_them(self, saved, tiny):
        path = saved()
        (path / "model.safetensors").unlink()
        torch.save(tiny("llama").state_dict(), path / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"must be safetensors, got pytorch_model\.bin.*save_pretrained"):
            load_base(str(path))

    def test_missing_weights_are_refused(self, saved):
        path = saved()
        tensors = tensors_of(path)
        del tensors["lm_head.weight"]
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lm_head\.weight"):
            load_base(str(path))

    @pytest.mark.parametrize("file", ["../outside.safetensors", "/tmp/outside.safetensors", "C:\\x", "a/../../b"])
    def test_lists_of_weights_name_files_of_the_directory_alone(self, saved, file):
        path = saved()
        (path / "model.safetensors").rename(path / "x.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": file}}))
        with pytest.raises(ModelError, match=r"index\.json of .* must name files of that directory"):
            load_base(str(path))

    def test_a_model_that_is_no_language_model_is_called_what_it_is(self, tmp_path):
        T5Config(vocab_size=8, d_model=8, architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path / "t5")
        with pytest.raises(ModelError, match=r"a T5ForConditionalGeneration, which is none\. Name a causal"):
            load_base(str(tmp_path / "t5"))
        LlavaConfig(architectures=["LlavaForConditionalGeneration"]).save_pretrained(tmp_path / "llava")
        with pytest.raises(ModelError, match=r"a LlavaForConditionalGeneration, .* language model and tokenizer"):
            load_base(str(tmp_path / "llava"))

    @pytest.mark.filterwarnings("ignore")  # peft's, of training that is not ours
    def test_an_adapter_whose_vocabulary_was_resized_is_refused_with_the_sizes(self, saved, tmp_path):
        path = saved("llama")
        resized = AutoModelForCausalLM.from_pretrained(path)
        resized.resize_token_embeddings(70, mean_resizing=False)
        adapted = get_peft_model(resized, LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]))
        adapted.save_pretrained(tmp_path / "adapter")
        with pytest.raises(ModelError, match=r"size mismatch for .*\[70, 32\].*\[64, 32\].* resized must be saved"):
            load_base(str(tmp_path / "adapter"))

    @pytest.mark.parametrize("architecture", ["gpt2", "llama"])
    def test_an_adapter_directory_is_merged(self, architecture, saved, tiny, logits, tmp_path):
        path = saved(architecture)
        adapted = tiny(architecture)
        config = LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=architecture == "gpt2", use_dora=True)
        inject_adapter_in_model(config, adapted, "default")
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1
        config.base_model_name_or_path = str(path)
        folder = tmp_path / "adapter"
        config.save_pretrained(str(folder))
        tensors = get_peft_model_state_dict(adapted, adapter_name="default", save_embedding_layers=False)
        tensors = {f"base_model.model.{key}": tensor.detach().clone() for key, tensor in tensors.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        loaded = load_base(str(folder))
        assert loaded.name == str(folder)
        assert not any("lora" in key for key in loaded.model.state_dict())
        torch.testing.assert_close(logits(loaded.model), logits(adapted), atol=1e-4, rtol=1e-3)
        save_language_model(loaded.model, loaded.tokenizer, tmp_path / "again", None)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
        expected = loaded.model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
        # the last digits: a loaded GPT-2 has its activation fused
        torch.testing.assert_close(logits(again), logits(loaded.model), atol=1e-5, rtol=1e-5)

    def test_an_adapter_without_base_is_refused(self, tmp_path):
        LoraConfig(r=2).save_pretrained(str(tmp_path))
        with pytest.raises(ModelError, match="must name its base model"):
            load_base(str(tmp_path))


def tensors_of(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_max_length": "x"}, "model_max_length in tokenizer_config.json of '.*' must be a number, got 'x'"),
        ({"chat_template": "{{ messages }}\ud800"}, "the chat template of '.*' must be text that UTF-8 can write"),
    ],
)
def test_settings_of_a_tokenizer_that_fail_only_in_use_are_refused_at_load(tmp_path, settings, message):
    model, tokenizer = TinyModel(hidden_size=8, num_layers=1, num_heads=1).load()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(ModelError, match=message):
        load_base(str(tmp_path))
