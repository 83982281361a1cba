"""What the documentation says, against the code."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import lightning_rlhf.functional as functional
from lightning_rlhf.builtins.rows import RowReader
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import plugin_manager

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("README*.md")])
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^Write `([\w.]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize(
    "path", [*PAGES, *ROOT.glob("docs/*/*.md"), *ROOT.glob("plugins/*/README.md")], ids=lambda path: path.name
)
def test_every_row_of_a_table_has_the_cells_of_its_head(path):
    head = None
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        head = cells if head is None else head
        assert cells in (None, head), line
        head = None if cells is None else head


def test_the_map_leads_to_every_page():
    for path in ROOT.glob("docs/*.md"):
        if path.stem != "index":
            assert f"]({path.name})" in DOCS["index"]


def test_the_algorithms_page_has_every_formula_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|", DOCS["algorithms"], re.MULTILINE)
    assert sorted(rows) == sorted(functional.__all__)


def test_every_example_of_a_row_is_read_as_its_heading_says():
    examples = re.findall(
        r"^### [^\n(]+\((\w+)\)\n(.*?)```json\n(.*?)```\n+```yaml\n(.*?)```", DOCS["data"], re.MULTILINE | re.DOTALL
    )
    assert len(examples) >= 6
    for kind, _, row, config in examples:
        arguments = yaml.safe_load(config)["source"]["init_args"]
        record = RowReader(arguments.get("columns"), arguments.get("kind")).record(json.loads(row))
        assert type(record).__name__.lower() == kind


def test_the_example_of_a_dataset_component_reads_its_rows(tmp_path):
    source = next(code for language, code in FENCE.findall(DOCS["data"]) if language == "python")
    names = {}
    exec(source, names)
    row = {"instruction": "Name a fruit.", "input": "", "response1": "Apple.", "response2": "Stone."}
    row |= {"annotator1": 1, "annotator2": 2, "annotator3": 0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    ranking = next(iter(names["PandaLM"](str(tmp_path / "rows.jsonl")).load("train")))
    assert ranking.ranks == ((0, 1), (1, 0), (0, 0))


@pytest.mark.parametrize("page", ["README", "README.zh"])
def test_the_readme_names_every_built_in_component(page):
    for kind in KINDS:
        for name, offered in plugin_manager().components(kind).items():
            assert f"`{name}`" in DOCS[page] or offered.distribution != "lightning-rlhf"


@pytest.mark.parametrize("page", ["README", "README.zh"])
def test_the_plug_in_of_the_readme_works(page, fake_plugins):
    blocks = dict(FENCE.findall(DOCS[page]))
    project = tomllib.loads(blocks["toml"])["project"]
    entry_points = project["entry-points"]["lightning_rlhf"]
    lines = ["[lightning_rlhf]", *(f"{name} = {module}" for name, module in entry_points.items())]
    fake_plugins.install(project["name"], blocks["python"], entry_points="\n".join(lines) + "\n")
    manager = fake_plugins.manager()
    assert [plugin.reason for plugin in manager.plugins] == [None, None]
    target = manager.components("reward_function")["politeness"].target
    assert target(word="thanks")(["q"], ["No.", "thanks, thanks"]) == [0.0, 2.0]


@pytest.mark.parametrize("page", ["README", "README.zh"])
def test_the_command_for_the_tests_stands_behind_its_marker(page):
    block = re.search(r"^<!-- tests -->\n```sh\n(.*?)^```$", DOCS[page], re.MULTILINE | re.DOTALL)
    assert block
    assert block[1].splitlines() == [
        "python3 -m venv .venv",
        ".venv/bin/pip install -c constraints.txt -e '.[test]'",
        ".venv/bin/python -m pytest",
    ]


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(tmp_path):
    """Its files, then its commands, in their order; every metric that the runs write is explained."""
    for name, text in FILE.findall(DOCS["tutorial"]):
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = "".join(code for language, code in FENCE.findall(DOCS["tutorial"]) if language == "sh")
    script = (
        f'lightning-rlhf() {{ "{sys.executable}" -m lightning_rlhf "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script + commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    explained = re.findall(r"`((?:train|val|objective|scores|rollout|value|loss|policy)/[^`]+)`", DOCS["outputs"])
    for stage in ("sft", "reward", "ppo"):
        assert (tmp_path / "runs" / stage / "model" / "config.json").exists()
        columns = (tmp_path / "runs" / stage / "metrics.csv").read_text().splitlines()[0].split(",")
        for metric in columns:
            plain = re.sub(r"scores/.*", "scores/<name>", metric).replace("val/greedy_", "val/")
            assert plain in explained or metric in ("epoch", "step", "objective/scores"), metric
