"""What stands in the place of a class is its name: no file or URL but the one after `--config` is read as a config."""

import json
import sys
from pathlib import Path

import fsspec
import jsonargparse._paths
import pytest
import yaml

from lightning_rlhf.cli.main import main

ROWS = {"class_path": "file", "init_args": {"path": "rows.jsonl"}}
TINY = {"class_path": "tiny", "init_args": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
SFT = {"class_path": "SFTModule", "init_args": {"base": TINY}}
PPO = {"class_path": "PPOModule", "init_args": {"base": TINY}}

PLACES = {
    "model.base": SFT,
    "model.reference": PPO,
    "model.rewards+": PPO,
    "model.reward_model": PPO,
    "model.adapter": SFT,
    "model": SFT,
    "data.source": SFT,
    "data.template": SFT,
    "trainer": SFT,
    "trainer.callbacks+": SFT,
    "trainer.logger": SFT,
    "trainer.plugins": SFT,
    "trainer.strategy": SFT,
}


@pytest.fixture
def fit(tmp_path, monkeypatch, capsys, payload, evil_module):
    """`fit(*words, **config)`: what the command line says, which reads no config but its own and runs no payload."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    Path("model.gguf").write_text("class_path: evil_module.Boom\n")
    Path("evil_module.gguf").write_text("GGUF")
    read_text, read = jsonargparse._paths.Path.read_text, []
    monkeypatch.setattr(
        jsonargparse._paths.Path, "read_text", lambda path: (read.append(str(path)), read_text(path))[1]
    )

    def run(*words, **config):
        Path("config.yaml").write_text(yaml.safe_dump(config))
        assert main(["fit", "--config=config.yaml", *words]) == 2
        said = capsys.readouterr().err
        assert set(read) <= {"config.yaml"}
        return said

    return run


def config(model):
    data = "PromptData" if model is PPO else "DemonstrationData"
    data = {"class_path": data, "init_args": {"source": ROWS}}
    return {"seed_everything": False, "model": model, "data": data, "trainer": {"accelerator": "cpu"}}


@pytest.fixture
def remote():
    """A config on a file system that needs no network."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/evil.yaml", b"class_path: evil_module.Boom\n")
    yield "memory://evil.yaml"
    files.rm_file("/evil.yaml")


@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_named_for_a_class_is_not_read(fit, place):
    fit(f"--{place}=model.gguf", **config(PLACES[place]))


@pytest.mark.parametrize("place", ["model.base", "data.template", "trainer"])
def test_neither_is_a_url(fit, remote, place):
    fit(f"--{place}={remote}", **config(PLACES[place]))


@pytest.mark.parametrize("value", ["model.gguf", "memory://evil.yaml"])
def test_neither_is_one_that_a_config_names(fit, remote, value):
    for arguments in ({"base": value}, {"base": TINY, "adapter": value}):
        fit(**config({"class_path": "SFTModule", "init_args": arguments}))
    fit(**config({"class_path": "PPOModule", "init_args": {"base": TINY, "rewards": [value], "reference": value}}))
    fit(**{**config(SFT), "trainer": value})


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("model.base", "evil_module.gguf"),
        ("data.source", "evil_module.jsonl"),
        ("trainer.callbacks+", "evil_module.gguf"),
    ],
)
def test_the_name_of_a_file_is_no_import_path(fit, place, name):
    """There or not: `evil_module.gguf` is a model, not an attribute of a module."""
    fit(f"--{place}={name}", **config(PLACES[place]))


def test_a_class_path_still_is_one(fit, payload):
    fit("--model.base=evil_module.Boom", **config(SFT))
    assert payload.ran
    payload.mark.unlink()


def test_the_message_says_where_a_config_goes(fit):
    said = fit("--data.template=model.gguf", **config(SFT))
    assert "data.template: prompt template must be one of" in said
    assert "got './model.gguf'. Only --config reads a file." in said
    assert "trainer must be a mapping of its arguments, got" in fit("--trainer=model.gguf", **config(SFT))


def test_arguments_of_a_class_may_stand_in_one_word(fit):
    assert "accumulate_grad_batches must be at least 1" in fit("--trainer={accumulate_grad_batches: 0}", **config(SFT))


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/c.yaml", "s3://bucket/c.yaml", "memory://evil.yaml", "zip::memory://x"],
)
def test_a_config_is_a_file_of_this_machine(fit, remote, url):
    assert f"--config must be a file on this machine, got '{url}'" in fit("--config", url, **config(SFT))


def test_a_config_does_not_bring_others_along(fit):
    Path("other.yaml").write_text(json.dumps(config(SFT)))
    assert "a config must not name another one, got 'other.yaml'" in fit(**config(SFT), config="other.yaml")
    assert "must be a file on this machine" in fit(**config(SFT), config="memory://evil.yaml")


def test_a_model_after_config_is_not_read_to_its_end(fit):
    with Path("large.gguf").open("wb") as file:
        file.truncate(600 * 10**6)
    assert "--config must be a file of YAML text, got 'large.gguf' of 600 MB" in fit("--config=large.gguf")
