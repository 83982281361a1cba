"""The README's configs, run as they stand."""

import re
from pathlib import Path

import pytest

from lightning_rlhf.cli.main import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
CONFIGS = re.findall(r"`([\w-]+\.yaml)`(?:[^`]*?)\n\n```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = re.search(r"```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "prompts.jsonl").write_text(rows, encoding="utf-8")
    for name, text in CONFIGS:
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def commands():
    return re.findall(r"^lightning-rlhf (fit --config \S+)$", README, re.MULTILINE)


def run(command):
    assert main([*command.split(), "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]) == 0


def columns(path):
    return set(path.read_text(encoding="utf-8").partition("\n")[0].split(","))


def test_every_config_has_its_command():
    assert [name for name, _ in CONFIGS] == [command.split()[-1] for command in commands()]


@pytest.mark.filterwarnings("ignore:all .* responses of iteration")  # a random base writes nothing that has a sentiment
def test_the_english_config_runs(folder):
    run(commands()[0])
    assert {"scores/vader", "scores/textblob"} <= columns(folder / "runs/ppo-english/metrics.csv")


@pytest.mark.slow
def test_the_three_stages_on_reviews_run(folder):
    for command in commands()[1:]:
        run(command)
    assert {"scores/snownlp", "scores/reward_model"} <= columns(folder / "runs/ppo/metrics.csv")


def test_every_component_is_shown_in_a_config():
    from lightning_rlhf_sentiment.plugin import rlhf_datasets, rlhf_reward_functions

    for component in (*rlhf_datasets(), *rlhf_reward_functions()):
        assert re.search(rf"class_path: {component.name}$", "".join(text for _, text in CONFIGS), re.MULTILINE)
