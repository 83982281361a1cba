import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_rlhf.cli.main import main
from lightning_rlhf.plugin_system.manager import plugin_manager

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^Write `([\w.-]+)`[^\n]*:\n\n```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
CONFIGS = [name for name in FILES if name.endswith(".yaml")]
OFFERED = ("trl", "trlx", "openrlhf", "verl")


def test_each_component_has_a_config_in_the_readme():
    found = plugin_manager().components("reward_function")
    assert {name for name, offer in found.items() if offer.distribution == "lightning-rlhf-compat"} == set(OFFERED)
    assert sorted(CONFIGS) == sorted(f"ppo-{name}.yaml" for name in OFFERED)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # Lightning's advice on a short run
def test_the_configs_of_the_readme_train(config, write, monkeypatch):
    for name, text in FILES.items():
        write(text, file=name)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(sys, "argv", ["lightning-rlhf"])
    # the base is random: its responses to these few prompts are all wrong, and a run that learns nothing is an error
    varied = ["--model.rewards+=repetition", "--model.rewards.ngram_size=1", "--model.reward_weights=null"]
    assert main(["fit", "--config", config, "--trainer.default_root_dir=run", *varied]) in (None, 0)
    header, *lines = Path("run/metrics.csv").read_text().splitlines()
    assert f"scores/{config.removeprefix('ppo-').removesuffix('.yaml')}" in header.split(",")
    assert lines


def test_each_argument_is_documented_in_the_readme():
    for name in OFFERED:
        target = plugin_manager().resolve("reward_function", name)
        arguments = target.__init__.__annotations__.keys() - {"return", "path"}
        assert all(f"`{argument}`" in README for argument in arguments)
        assert all(f"    {argument}: " in target.__doc__ for argument in arguments | {"path"})


def test_listing_imports_neither_torch_nor_the_functions():
    code = (
        "import sys, lightning_rlhf_compat.plugin as p; p.rlhf_reward_functions();"
        "assert not {'torch', 'transformers', 'lightning_rlhf_compat.trl'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
