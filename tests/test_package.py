import subprocess
import sys

import pytest

import lightning_rlhf


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_importing_the_package_and_the_plugin_api_loads_nothing_heavy():
    names = "Component, hookimpl, DataSource, PromptTemplate, RewardFunction, RankingConverter, ModelSource, Segment"
    result = fresh(
        f"import sys; from lightning_rlhf import {names}, Message, Text, Demonstration, Ranking, Prompt\n"
        "heavy = ['torch', 'numpy', 'transformers', 'lightning', 'datasets', 'jsonargparse']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize("name", lightning_rlhf.__all__)
def test_every_public_name_is_there(name):
    assert getattr(lightning_rlhf, name) is not None
    assert name in dir(lightning_rlhf)


def test_public_names_are_sorted_and_unique():
    assert lightning_rlhf.__all__ == sorted(set(lightning_rlhf.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lightning_rlhf' has no attribute 'SFTTrainer'"):
        _ = lightning_rlhf.SFTTrainer
