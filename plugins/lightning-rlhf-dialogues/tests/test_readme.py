"""The README's rows and configurations, each pair of them run as it stands there."""

import re
from pathlib import Path

import pytest
import yaml
from lightning_rlhf_dialogues.plugin import rlhf_datasets, rlhf_prompt_templates

from lightning_rlhf.cli.main import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SNIPPETS = [
    (rows, config)
    for rows, config in re.findall(r"(?:```(?:json|text)\n((?:(?!```).)*)```\s+)?```yaml\n(.*?)```", README, re.DOTALL)
]
CONFIGS = [yaml.safe_load(config) for _, config in SNIPPETS]


def named(config):
    """Source and template of a configuration, with their arguments."""
    arguments = config["data"]["init_args"]
    return [
        (part, {}) if isinstance(part, str) else (part["class_path"], part.get("init_args", {}))
        for part in (arguments["source"], arguments["template"])
    ]


def test_every_component_has_a_configuration():
    assert {named(config)[0][0] for config in CONFIGS} == {component.name for component in rlhf_datasets()}
    assert {component.name for component in rlhf_prompt_templates()} <= {named(config)[1][0] for config in CONFIGS}


@pytest.mark.parametrize(
    ("rows", "config"), SNIPPETS, ids=[f"{number}-{named(c)[0][0]}" for number, c in enumerate(CONFIGS)]
)
def test_a_configuration_runs_on_the_rows_above_it(rows, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    path = named(yaml.safe_load(config))[0][1].get("path")
    assert bool(path) == bool(rows)
    if path:
        Path(path).write_text(rows, encoding="utf-8")
    Path("config.yaml").write_text(config, encoding="utf-8")
    options = ["accelerator=cpu", "max_steps=1", "enable_progress_bar=false", "enable_model_summary=false"]
    assert main(["fit", "--config", "config.yaml", *(f"--trainer.{option}" for option in options)]) == 0
    assert next(Path("runs").glob("*/model/model.safetensors"))
