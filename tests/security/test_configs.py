"""A config: what it names is executed, but not all that Python has."""

import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import set_parsing_settings

from lightning_rlhf.builtins.reward_functions import FunctionReward
from lightning_rlhf.cli.lightning import trainer_surroundings
from lightning_rlhf.cli.main import main
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.registry import check_importable

DENIED = ["os.system", "subprocess.Popen", "builtins.exec", "pickle.loads", "runpy.run_path", "importlib.import_module"]
SOURCE = {"class_path": "file", "init_args": {"path": "rows.jsonl"}}
TINY = {"class_path": "tiny", "init_args": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}


@pytest.fixture
def fit(tmp_path, monkeypatch, capsys):
    """`fit(*words, **config)`: what the command line says to a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')

    def run(*words, text=None, model=None, data=None):
        config = {
            "model": {"class_path": "SFTModule", "init_args": {"base": TINY, **(model or {})}},
            "data": {"class_path": "DemonstrationData", "init_args": {"source": SOURCE, **(data or {})}},
        }
        Path("config.yaml").write_text(text or yaml.safe_dump(config))
        status = main(["fit", "--config=config.yaml", *words])
        printed = capsys.readouterr()
        assert status == 2
        assert "Traceback" not in printed.err
        assert not Path("runs").exists()
        return printed.err

    return run


@pytest.mark.parametrize(
    ("place", "path"),
    [("template", path) for path in DENIED]
    + [(place, "subprocess.Popen") for place in ("model", "source", "callback", "base")],
)
def test_a_class_path_cannot_name_what_reaches_into_the_system(fit, payload, place, path):
    named = {"class_path": path, "init_args": {"args": payload.command}}
    if place == "model":
        said = fit(f"--model={path}")
    elif place == "callback":
        said = fit(f"--trainer.callbacks+={path}")
    elif place == "base":
        said = fit(model={"base": named})
    else:
        said = fit(data={place: named})
    assert f"got '{path}', which reaches into the system" in said


def test_nor_by_another_name(fit, payload):
    assert "got 'posix.system', which reaches into the system" in fit("--data.template=glob.os.system")


@pytest.mark.parametrize("path", [path.replace(".", ":") for path in DENIED] + ["glob:os.system"])
def test_a_reward_function_is_held_to_the_same_list(payload, path):
    with pytest.raises(ConfigError, match="must not reach into the system"):
        FunctionReward(path)


def test_a_reward_function_imports_what_the_config_names_and_no_more(payload, evil_module, tmp_path, monkeypatch):
    (tmp_path / "importable" / "my_rewards.py").write_text("def polite(prompts, responses):\n    return [1.0]\n")
    assert FunctionReward("my_rewards:polite")(["p"], ["r"]) == [1.0]
    with pytest.raises(ConfigError):
        FunctionReward("my_rewards:evil_module")
    del sys.modules["my_rewards"]


def test_what_is_one_s_own_may_be_named(tmp_path, monkeypatch):
    set_parsing_settings(import_path_denylist=[])
    check_importable("json.dumps")
    check_importable("no_such_module.name")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [COMMAND]",
        "!!python/object/new:subprocess.Popen [[sh, -c, COMMAND]]",
        "!!python/name:os.system",
        "!!python/module:evil_module",
    ],
)
def test_yaml_makes_no_python_objects(fit, payload, evil_module, tag):
    tag = tag.replace("COMMAND", f'"{payload.command}"')
    assert "must be YAML" in fit(text=f"model: {tag}\n")


def test_the_working_directory_hides_no_package(tmp_path, monkeypatch):
    """It may be somebody else's folder, to which one goes to look at it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with trainer_surroundings():
        assert sys.path[-1] == str(tmp_path)
        assert sys.path.count(str(tmp_path)) == 1
