"""A model directory that somebody else has made."""

import json
import pickle

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from lightning_rlhf.errors import ModelError, TemplateError
from lightning_rlhf.models import LoRA, RecordedTemplate, ScalarModel, add_adapter, load_base, save_reward_model
from lightning_rlhf.models.loading import LoadedModel

PICKLES = ["pytorch_model.bin", "model.pt", "model.ckpt", "consolidated.00.pth"]


def pickled(path, payload, kind="torch"):
    """The payload as Python's pickle, or as torch's."""
    if kind == "torch":
        torch.save({"lm_head.weight": payload}, path)
    else:
        path.write_bytes(pickle.dumps({"lm_head.weight": payload}, protocol=2))


def adapter(path, base, **settings):
    """The directory of an adapter without weights."""
    LoraConfig(r=2, base_model_name_or_path=str(base)).save_pretrained(str(path))
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return path


@pytest.fixture
def reward_directory(tiny, tmp_path):
    """A reward model that was trained as an adapter, which lies beside it."""
    model, tokenizer = tiny
    scalar = ScalarModel.from_language_model(LoadedModel(type(model)(model.config), tokenizer, "tiny", None))
    add_adapter(scalar.backbone, LoRA(rank=2))
    save_reward_model(scalar, tokenizer, tmp_path / "reward", None, base_name="owner/base")
    return tmp_path / "reward"


def test_the_harmless_directories_load(model_directory, reward_directory):
    load_base(str(model_directory))
    assert ScalarModel.load(str(reward_directory)).adapter is not None


def test_the_payload_runs_where_it_is_let(payload, evil_module):
    """Else the tests beside this one would show nothing."""
    for run in (lambda: pickle.loads(pickle.dumps(payload)), lambda: __import__(evil_module)):
        run()
        assert payload.ran
        payload.mark.unlink()


class TestPickles:
    @pytest.mark.parametrize("name", PICKLES)
    @pytest.mark.parametrize("kind", ["pickle", "torch"])
    def test_weights_that_are_a_pickle_are_refused(self, model_directory, payload, name, kind):
        (model_directory / "model.safetensors").unlink()
        pickled(model_directory / name, payload, kind)
        with pytest.raises(ModelError, match=f"must be safetensors, got {name}: a pickle can hold code"):
            load_base(str(model_directory))

    def test_a_pickle_under_a_name_of_safetensors_is_refused(self, model_directory, payload):
        pickled(model_directory / "model.safetensors", payload)
        with pytest.raises(ModelError, match="SafetensorError"):
            load_base(str(model_directory))

    def test_an_index_that_names_pickles_is_refused(self, model_directory, payload):
        (model_directory / "model.safetensors").unlink()
        pickled(model_directory / "shard.bin", payload)
        index = {"metadata": {"total_size": 1}, "weight_map": {"lm_head.weight": "shard.bin"}}
        (model_directory / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError):
            load_base(str(model_directory))

    def test_a_config_cannot_name_a_pickle_as_its_weights(self, model_directory, payload, change_json):
        pickled(model_directory / "adapter_model.bin", payload)
        change_json(model_directory / "config.json", transformers_weights="adapter_model.bin")
        with pytest.raises(ModelError):
            load_base(str(model_directory))

    def test_a_reward_model_that_is_a_pickle_is_refused(self, reward_directory, payload):
        (reward_directory / "model.safetensors").unlink()
        pickled(reward_directory / "pytorch_model.bin", payload)
        with pytest.raises(ModelError, match="must be safetensors"):
            ScalarModel.load(str(reward_directory))

    def test_an_adapter_that_is_a_pickle_is_refused(self, model_directory, tmp_path, payload):
        path = adapter(tmp_path / "adapter", model_directory)
        pickled(path / "adapter_model.bin", payload)
        with pytest.raises(ModelError, match=r"must be safetensors, got adapter_model\.bin"):
            load_base(str(path))

    def test_an_adapter_beside_a_reward_model_that_is_a_pickle_is_refused(self, reward_directory, payload):
        pickled(reward_directory / "adapter" / "adapter_model.safetensors", payload)
        with pytest.raises(ModelError, match="SafetensorError"):
            ScalarModel.load(str(reward_directory))


class TestCodeOfTheModel:
    @pytest.mark.parametrize("model_type", ["llama", "an_architecture_of_its_own"])
    def test_code_beside_the_weights_is_not_run(self, model_directory, payload, change_json, model_type):
        (model_directory / "modeling_evil.py").write_text(payload.source)
        names = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
        change_json(model_directory / "config.json", auto_map=names, model_type=model_type)
        if model_type == "llama":  # there is a class of transformers' own to take
            load_base(str(model_directory))
        else:
            with pytest.raises(ModelError, match=r"without Python code of its own.*set trust_remote_code to true"):
                load_base(str(model_directory))

    def test_code_of_the_tokenizer_is_not_run(self, model_directory, payload, change_json):
        (model_directory / "tokenization_evil.py").write_text(payload.source)
        settings = model_directory / "tokenizer_config.json"
        change_json(settings, auto_map={"AutoTokenizer": ["tokenization_evil.Own", "tokenization_evil.Own"]})
        load_base(str(model_directory))  # with the class of transformers' own
        change_json(settings, tokenizer_class="Own")
        with pytest.raises(ModelError, match="without Python code of its own"):
            load_base(str(model_directory))

    def test_code_of_a_reward_model_is_not_run(self, reward_directory, payload, change_json):
        (reward_directory / "modeling_evil.py").write_text(payload.source)
        names = {"AutoConfig": "modeling_evil.Config"}
        change_json(reward_directory / "config.json", auto_map=names, model_type="an_architecture_of_its_own")
        with pytest.raises(ModelError, match="set trust_remote_code to true"):
            ScalarModel.load(str(reward_directory))

    def test_code_for_generation_is_not_run(self, model_directory, payload):
        (model_directory / "custom_generate").mkdir()
        (model_directory / "custom_generate" / "generate.py").write_text(payload.source)
        loaded = load_base(str(model_directory))
        loaded.model.generate(torch.tensor([[1, 2]]), max_new_tokens=1)

    @pytest.mark.parametrize("setting", ["attn_implementation", "_attn_implementation", "experts_implementation"])
    def test_a_kernel_of_the_hub_is_refused(self, model_directory, change_json, setting):
        change_json(model_directory / "config.json", **{setting: "owner/kernel"})
        with pytest.raises(ModelError, match="got 'owner/kernel', code on the hub"):
            load_base(str(model_directory))

    def test_a_kernel_in_another_version_of_the_config_is_refused(self, model_directory, change_json):
        config = json.loads((model_directory / "config.json").read_text())
        (model_directory / "config.4.0.0.json").write_text(
            json.dumps({**config, "attn_implementation": "owner/kernel"})
        )
        change_json(model_directory / "config.json", configuration_files=["config.4.0.0.json"])
        with pytest.raises(ModelError, match="got 'owner/kernel', code on the hub"):
            load_base(str(model_directory))


class TestAdapters:
    @pytest.fixture
    def path(self, model_directory, tmp_path, tiny):
        path = adapter(tmp_path / "adapter", model_directory)
        width = tiny[0].config.hidden_size
        layer = "base_model.model.model.layers.0.self_attn.q_proj"
        tensors = {f"{layer}.lora_A.weight": torch.ones(2, width), f"{layer}.lora_B.weight": torch.ones(width, 2)}
        save_file(tensors, path / "adapter_model.safetensors")
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
        return path

    def test_the_harmless_one_loads(self, path):
        load_base(str(path))

    def test_a_module_that_its_config_names_is_not_imported(self, path, payload, evil_module, change_json):
        change_json(path / "adapter_config.json", megatron_config={"a": 1}, megatron_core=evil_module)
        with pytest.raises(ModelError, match="got a megatron_config, with which peft imports the module"):
            load_base(str(path))

    def test_neither_is_one_of_the_adapter_beside_a_reward_model(
        self, reward_directory, payload, evil_module, change_json
    ):
        file = reward_directory / "adapter" / "adapter_config.json"
        change_json(file, megatron_config={"a": 1}, megatron_core=evil_module)
        with pytest.raises(ModelError, match="got a megatron_config"):
            ScalarModel.load(str(reward_directory))

    @pytest.mark.parametrize("kind", ["XLORA", "SHADOW", "PROMPT_TUNING", "CARTRIDGE", "no kind", None])
    def test_a_kind_that_names_further_files_is_refused(self, path, change_json, kind):
        change_json(path / "adapter_config.json", peft_type=kind)
        with pytest.raises(ModelError, match=f"must be of a kind that can be merged.* got {kind!r}"):
            load_base(str(path))

    def test_a_base_that_it_names_is_held_to_the_same_rules(self, path, model_directory, payload):
        (model_directory / "model.safetensors").unlink()
        pickled(model_directory / "pytorch_model.bin", payload)
        with pytest.raises(ModelError, match="must be safetensors"):
            load_base(str(path))

    def test_one_that_names_itself_as_its_base_is_refused(self, path, change_json):
        change_json(path / "adapter_config.json", base_model_name_or_path=str(path))
        with pytest.raises(ModelError):
            load_base(str(path))

    def test_an_adapter_is_no_reward_model(self, reward_directory, path):
        (reward_directory / "adapter_config.json").write_bytes((path / "adapter_config.json").read_bytes())
        with pytest.raises(ModelError, match="must hold whole weights, got an adapter"):
            ScalarModel.load(str(reward_directory))


class TestRecordedTemplates:
    def recorded(self, directory, class_path, **init_args):
        template = {"class_path": class_path, "init_args": init_args}
        (directory / "rlhf.json").write_text(json.dumps({"template": template}))
        record = load_base(str(directory)).template
        assert record is not None
        return record

    @pytest.mark.parametrize("name", ["{0}.Template", "{0}.sub.Template"])
    def test_a_module_is_not_imported_because_a_model_names_it(self, model_directory, payload, evil_module, name):
        record = self.recorded(model_directory, name.format(evil_module))
        with pytest.raises(TemplateError, match="must be a component of an installed plug-in or a class that is"):
            record.create()

    def test_a_module_in_the_models_own_directory_is_not_either(self, model_directory, payload, monkeypatch):
        (model_directory / "template.py").write_text(payload.source)
        monkeypatch.chdir(model_directory)
        monkeypatch.syspath_prepend("")
        with pytest.raises(TemplateError):
            self.recorded(model_directory, "template.Template").create()

    @pytest.mark.parametrize(
        "class_path",
        [
            "os.system",
            "subprocess.Popen",
            "builtins.exec",
            "lightning_rlhf.registry.reward_function.function",
            "lightning_rlhf.builtins.models.TinyModel",
            "lightning_rlhf.plugin_system.interfaces.PromptTemplate",
        ],
    )
    def test_what_is_no_template_is_not_called(self, model_directory, payload, class_path):
        with pytest.raises(TemplateError):
            self.recorded(model_directory, class_path, args=payload.command).create()

    @pytest.mark.parametrize(
        "class_path",
        ["lightning_rlhf.registry.prompt_template.alpaca", "lightning_rlhf.builtins.templates.AlpacaTemplate"],
    )
    def test_an_offered_template_is_made(self, model_directory, class_path):
        assert self.recorded(model_directory, class_path).create().render([]) == []

    def test_an_offered_template_of_a_plug_in_is_imported(self, fake_plugins):
        fake_plugins.install(
            "framed",
            """
            from lightning_rlhf import Component, hookimpl

            @hookimpl
            def rlhf_prompt_templates():
                return [Component("framed", "framed_package:Framed")]
            """,
            framed_package="from framed_templates import Framed",
            framed_templates="""
            from lightning_rlhf import PromptTemplate, Segment

            class Framed(PromptTemplate):
                def render(self, messages):
                    return [Segment("|", False)]
            """,
        )
        for path in (
            "framed_package.Framed",
            "framed_templates.Framed",
            "lightning_rlhf.registry.prompt_template.framed",
        ):
            fake_plugins.forget()
            assert RecordedTemplate(path).create().render([])[0].text == "|"
