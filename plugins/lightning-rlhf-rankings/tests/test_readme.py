import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.registry import create

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: ", ".join(block))
def test_the_snippets_name_converters_and_their_default_arguments(block):
    snippet = block["data"]["init_args"]["converter"] if "data" in block else block["converter"]
    converter = create("ranking_converter", snippet["class_path"], **snippet["init_args"])
    assert vars(converter) == vars(create("ranking_converter", snippet["class_path"]))


def test_the_example_prints_what_is_shown():
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == shown
