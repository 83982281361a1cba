import ast
import subprocess
import sys
from pathlib import Path

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


def imported_at_once(path):
    """What a module imports while it is itself imported, by the outermost names."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_what_is_slow_to_import_and_seldom_needed_is_imported_where_it_is_used():
    seldom = {"accelerate", "aiml", "datasets", "gguf", "matplotlib", "pandas", "peft", "pyarrow", "textblob"}
    folder = Path(lightning_rlhf.__file__).parent
    found = {
        str(path.relative_to(folder)): seldom.intersection(imported_at_once(path)) for path in folder.rglob("*.py")
    }
    assert len(found) > 100
    assert {path: names for path, names in found.items() if names} == {}
