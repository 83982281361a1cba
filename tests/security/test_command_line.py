"""What a user reads whose file would have run code: one message, exit 2, and nothing was run."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_rlhf.cli.main import main
from lightning_rlhf.models import ScalarModel, save_reward_model
from lightning_rlhf.models.loading import LoadedModel

SOURCE = {"class_path": "file", "init_args": {"path": "rows.jsonl"}}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`command(name, *words, module=..., data=..., **arguments)`: exit code and message of a command on a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    rows = [{"prompt": f"say {row}", "response": "yes"} for row in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name, *words, module="SFTModule", data="DemonstrationData", **arguments):
        trainer = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
        config = {
            "model": {"class_path": module, "init_args": arguments},
            "data": {"class_path": data, "init_args": {"source": SOURCE, "batch_size": 2}},
            "trainer": trainer,
        }
        Path("config.yaml").write_text(yaml.safe_dump(config))
        status = main([name, "--config=config.yaml", *words])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return status, said

    return run


@pytest.mark.parametrize("name", ["fit", "predict", "inspect", "doctor"])
def test_a_model_that_is_a_pickle(command, model_directory, payload, name):
    (model_directory / "model.safetensors").unlink()
    torch.save({"lm_head.weight": payload}, model_directory / "pytorch_model.bin")
    status, said = command(name, *(["--row=0"] if name == "inspect" else []), base=str(model_directory))
    assert status == 2
    assert "must be safetensors, got pytorch_model.bin: a pickle can hold code. If you trust the file" in said


def test_a_model_with_code_of_its_own(command, model_directory, payload, change_json):
    (model_directory / "modeling_evil.py").write_text(payload.source)
    change_json(model_directory / "config.json", auto_map={"AutoConfig": "modeling_evil.Config"}, model_type="evil")
    status, said = command("fit", base=str(model_directory))
    assert status == 2
    assert "must load without Python code of its own" in said


def test_a_model_whose_template_is_a_module(command, model_directory, payload, evil_module):
    template = {"class_path": f"{evil_module}.Template", "provenance": {"some-plugin": "1.2"}}
    (model_directory / "rlhf.json").write_text(json.dumps({"template": template}))
    status, said = command("fit", base=str(model_directory))
    assert status == 2
    assert "got 'evil_module.Template'. Install its distribution (recorded: some-plugin 1.2), or name the" in said


def test_a_reward_model_whose_template_is_a_module(command, model_directory, tiny, tmp_path, payload, evil_module):
    scalar = ScalarModel.from_language_model(LoadedModel(type(tiny[0])(tiny[0].config), tiny[1], "tiny", None))
    save_reward_model(scalar, tiny[1], tmp_path / "reward", None)
    (tmp_path / "reward" / "rlhf.json").write_text(json.dumps({"template": {"class_path": f"{evil_module}.Template"}}))
    options = {"reward_model": str(tmp_path / "reward"), "rollout_size": 2, "minibatch_size": 2}
    status, said = command("fit", module="PPOModule", data="PromptData", base=str(model_directory), **options)
    assert status == 2
    assert "got 'evil_module.Template'" in said


def test_a_model_whose_chat_template_leaves_the_sandbox(command, model_directory, payload):
    escape = f'{{{{ cycler.__init__.__globals__.os.popen("{payload.command}").read() }}}}'
    (model_directory / "chat_template.jinja").write_text(escape)
    status, said = command("fit", "--data.template=tokenizer", base=str(model_directory))
    assert status == 2
    assert "the chat template of tokenizer" in said


class TestCheckpoints:
    @pytest.mark.parametrize("name", ["fit", "validate", "predict"])
    def test_a_pickle(self, command, model_directory, payload, name):
        torch.save({"state_dict": {}, "payload": payload}, "foreign.ckpt")
        status, said = command(name, "--ckpt_path=foreign.ckpt", base=str(model_directory))
        assert status == 2
        assert "ckpt_path must be a checkpoint of this module, got one that is not: Weights only load failed" in said

    def test_one_that_is_no_file_of_torch(self, command, model_directory, payload):
        Path("foreign.ckpt").write_bytes(pickle.dumps(payload))
        status, said = command("fit", "--ckpt_path=foreign.ckpt", base=str(model_directory))
        assert status == 2
        assert "must be a whole checkpoint" in said

    def test_a_sharded_one(self, command, model_directory, payload):
        Path("sharded").mkdir()
        torch.save({"pytorch-lightning_version": "2.6.6", "lr_schedulers": []}, "sharded/meta.pt")
        Path("sharded/.metadata").write_bytes(pickle.dumps(payload))
        status, said = command("fit", "--ckpt_path=sharded", base=str(model_directory))
        assert status == 2
        assert "the strategy must be ModelParallelStrategy to load the sharded checkpoint" in said

    def test_weights_only_is_what_the_command_line_says_to_lightning(self, command, model_directory, payload):
        status, _ = command("fit", base=str(model_directory))
        assert status == 0
        (config,) = Path("runs").glob("*/config.yaml")
        assert yaml.safe_load(config.read_text())["weights_only"] is True
