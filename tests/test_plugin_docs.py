"""The pages about plug-ins: complete, and every example on them works."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.cli.main import main
from lightning_rlhf.plugin_system.hookspecs import BASES, HOOKS
from lightning_rlhf.testing.contract import Contract

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "plugins"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^Write `([\w./]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE_OF = {hook: f"{kind}s" for hook, kind in HOOKS.items()}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)", PAGES[page]):
        assert "://" in target or (FOLDER / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "index"])
def test_the_index_leads_to_every_page(page):
    assert f"]({page}.md)" in PAGES["index"]


def test_the_map_and_the_readme_lead_to_the_index():
    assert "](plugins/index.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "](docs/plugins/index.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_page_with_its_base_class_and_a_whole_example(hook):
    page = PAGES[PAGE_OF[hook]]
    assert page.startswith("# ")
    assert f"`{hook}`" in page.splitlines()[0]
    assert f"`{BASES[HOOKS[hook]].__name__}`" in page
    ((_, source),) = FILE.findall(page)
    assert f"def {hook}(" in source
    assert f"`{hook}`" in PAGES["index"]


def test_the_directory_has_every_package_of_the_repository_and_no_other():
    listed = re.findall(r"^\| \[([\w-]+)\]\(\.\./\.\./plugins/", PAGES["index"], re.MULTILINE)
    assert listed == sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))


def test_every_environment_variable_is_explained():
    sources = "".join(path.read_text() for path in (ROOT / "lightning_rlhf" / "plugin_system").glob("*.py"))
    for variable in re.findall(r'"(LIGHTNING_RLHF_\w+)"', sources):
        assert f"| `{variable}" in PAGES["index"], variable


def test_the_commands_of_the_index_are_those_that_there_are(capsys):
    assert main(["--help"]) == 0
    with pytest.raises(SystemExit):
        main(["plugins", "--help"])
    helped = capsys.readouterr().out
    shown = re.findall(r"^lightning-rlhf plugins (\w+)", PAGES["index"], re.MULTILINE)
    assert shown == re.findall(r"^    (\w+)  ", helped.partition("lightning-rlhf plugins")[2], re.MULTILINE)


@pytest.fixture
def example(fake_plugins, tmp_path, monkeypatch):
    """The plug-in of a page, installed."""

    def install(hook):
        ((name, source),) = FILE.findall(PAGES[PAGE_OF[hook]])
        fake_plugins.install(name.removesuffix(".py").replace("_", "-"), source)
        fake_plugins.forget()
        monkeypatch.chdir(tmp_path)
        return PAGES[PAGE_OF[hook]]

    return install


def assert_contracts_are_kept(page, kind):
    tests = [source for language, source in FENCE.findall(page) if language == "python" and "Contract" in source]
    names = {}
    exec("\n".join(tests), names)
    contracts = [value for name, value in names.items() if name.startswith("Test") and issubclass(value, Contract)]
    assert [contract.component for contract in contracts] == re.findall(r'Component\("(\w+)"', page)
    for contract in contracts:
        assert contract.kind == kind
        for check in contract.checks():
            getattr(contract(), check)()


def assert_taken_by_fit(page, kind, capsys):
    configs = [text for language, text in FENCE.findall(page) if language == "yaml"]
    used = ""
    for number, text in enumerate(configs):
        assert {"model", "data"} == set(yaml.safe_load(text))
        Path(f"{number}.yaml").write_text(text)
        assert main(["fit", "--config", f"{number}.yaml", "--print_config"]) == 0
        used += capsys.readouterr().out
    assert f"lightning_rlhf.registry.{kind}." in used


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_every_hook_keeps_its_contract_and_its_configs_are_taken_by_fit(example, capsys, hook):
    """In one test: a second import of the plug-in would offer the parser two classes of each name."""
    page = example(hook)
    assert_taken_by_fit(page, HOOKS[hook], capsys)
    assert_contracts_are_kept(page, HOOKS[hook])


def tutorial_script():
    """Its files and commands in their order, as a shell takes them."""
    parts = []
    pattern = re.compile(r"^(?:Write `([\w./]+)`:\n\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for name, language, text in pattern.findall(PAGES["tutorial"]):
        if name:
            parts.append(f"cat > {name} <<'END_OF_FILE'\n{text}END_OF_FILE\n")
        elif language == "sh":
            parts.append(text)
    return "".join(parts)


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(tmp_path):
    """But for where pip installs to: a folder of its own, so that nothing stays behind here."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    script = tutorial_script()
    assert script.count("pip install") == 1
    functions = f"""
lightning-rlhf() {{ "{sys.executable}" -m lightning_rlhf "$@"; }}
python() {{ "{sys.executable}" "$@"; }}
pip() {{ "{sys.executable}" -m pip --quiet --disable-pip-version-check "$@" --no-index --target "{site}"; }}
"""
    # the package's own folder first, as after `pip install -e`
    path = os.pathsep.join([str(work / "vowels"), str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "LIGHTNING_RLHF_LOAD_PLUGINS": "vowels", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", functions + script.replace(" -e .", " .")],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    printed = finished.stdout
    assert "vowels 0.1.0  active" in printed
    assert printed.count("PASS  vowels 0.1.0  reward_function vowels") == 2
    scores = scores_of(work / "vowels" / "runs" / "vowels" / "metrics.csv")
    assert sum(scores[-3:]) > 4 * sum(scores[:3])
    header = (work / "vowels" / "runs" / "letters" / "config.yaml").read_text()
    assert "\n# plug-in vowels==0.1.0\n" in header


def scores_of(path):
    with path.open(newline="") as file:
        return [float(row["objective/scores"]) for row in csv.DictReader(file) if row.get("objective/scores")]
