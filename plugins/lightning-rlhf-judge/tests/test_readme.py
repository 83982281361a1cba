import inspect
import re
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.registry import create, lookup

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: ", ".join(block))
def test_the_snippets_make_judges(block):
    rewards = block["model"]["init_args"]["rewards"] if "model" in block else block["rewards"]
    for reward in rewards:
        create("reward_function", reward["class_path"], **reward["init_args"])


@pytest.mark.parametrize("name", ["judge_score", "judge_compare"])
def test_every_argument_stands_in_the_readme(name):
    arguments = inspect.signature(lookup("reward_function", name)).parameters
    assert not [argument for argument in arguments if f"`{argument}`" not in README]
