"""What `plugins new` writes is installed, tested and used, as its author would; nothing is left in this environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.cli.main import main
from lightning_rlhf.plugin_system.component import KINDS

ROOT = Path(__file__).parents[3]


def new(tmp_path, name, kind):
    assert main(["plugins", "new", name, "--kind", kind, "--into", str(tmp_path)]) == 0
    return tmp_path / name


def run(folder, site, *words):
    """Python in the package's folder, with the package installed."""
    path = os.pathsep.join([str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "LIGHTNING_RLHF_STRICT_PLUGINS": "1"}
    finished = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def installed(package, site):
    words = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(package, site, "-m", "pip", "install", *words, "--target", str(site), str(package))


def assert_installs_passes_its_tests_and_trains(tmp_path, monkeypatch, kind, *words):
    name = f"a-new-{kind.replace('_', '-')}"
    component = name.replace("-", "_")
    package, site = new(tmp_path, name, kind), tmp_path / "site"
    installed(package, site)
    monkeypatch.setenv("LIGHTNING_RLHF_LOAD_PLUGINS", name)
    assert re.search(r"^\d+ passed", run(package, site, "-m", "pytest", "-q").splitlines()[-1])
    words = ["--config", "example/fit.yaml", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0", *words]
    run(package, site, "-m", "lightning_rlhf", "fit", *words)
    root = package / "runs" / component
    assert (root / "model" / "config.json").exists()
    config = (root / "config.yaml").read_text()
    assert f"\n# plug-in {name}==0.1.0\n" in config
    assert f"class_path: lightning_rlhf.registry.{kind}.{component}\n" in config


@pytest.mark.long
def test_a_new_reward_function_installs_passes_its_tests_and_trains(tmp_path, monkeypatch):
    assert_installs_passes_its_tests_and_trains(tmp_path, monkeypatch, "reward_function", "--model.rollout_size=4")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "reward_function"])
def test_a_new_package_of_every_other_kind_does(tmp_path, monkeypatch, kind):
    assert_installs_passes_its_tests_and_trains(tmp_path, monkeypatch, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_has_all_that_its_readme_speaks_of(tmp_path, capsys, kind):
    package = new(tmp_path, "my-thing", kind)
    told = capsys.readouterr().out
    written = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
    assert set(written) >= {"README.md", "example/fit.yaml", "my_thing.py", "pyproject.toml", "tests/test_my_thing.py"}
    assert all(f"  {name}\n" in told for name in written)
    assert not [path for path in package.rglob("*") if path.is_file() and re.search(r"\$\w", path.read_text())]
    readme = (package / "README.md").read_text()
    snippet = yaml.safe_load(re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)[1])
    example = yaml.safe_load((package / "example" / "fit.yaml").read_text())
    for part, value in snippet.items():
        assert value["class_path"] == example[part]["class_path"]
        assert value["init_args"].items() <= example[part]["init_args"].items()


def test_a_package_that_is_named_for_us_offers_the_rest_of_its_name(tmp_path):
    package = new(tmp_path, "lightning-rlhf-thing", "model")
    assert 'Component("thing", ThingModel' in (package / "lightning_rlhf_thing.py").read_text()


@pytest.mark.parametrize(
    ("name", "kind", "class_name"),
    [("prompt", "prompt_template", "MyPromptTemplate"), ("length_reward", "reward_function", "LengthReward")],
)
def test_the_class_has_a_name_that_nothing_else_has(tmp_path, name, kind, class_name):
    package = new(tmp_path, name, kind)
    assert f"class {class_name}(" in (package / f"{name}.py").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Rewards", "must be lower-case letters, digits and single hyphens or underscores, with a letter first, got "
         "'My Rewards'. Did you mean my-rewards?"),
        ("a--b", "Did you mean a-b?"),
        ("1st", "with a letter first, got '1st'.\n"),
        ("../up", "Did you mean up?"),
        ("", "got ''.\n"),
        ("a" * 31, "must have at most 30 characters, got 31."),
        ("json", "must not be one of Python's own, got 'json'."),
        ("class", "must not be one of Python's own, got 'class'."),
        ("torch", "must not be that of an installed one, got 'torch'."),
        ("scikit-learn", "must not be that of an installed one, got 'scikit-learn'."),
        ("length", "must be free, got 'length', which lightning-rlhf"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_written(tmp_path, capsys, name, message):
    assert main(["plugins", "new", name, "--kind", "reward_function", "--into", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_that_a_plug_in_offers_is_refused_for_that_kind_only(fake_plugins, tmp_path, capsys):
    fake_plugins.install(
        "taken",
        """
        from lightning_rlhf import Component, hookimpl

        @hookimpl
        def rlhf_models():
            return [Component("wanted", "taken:X")]
        """,
        version="2",
    )
    assert main(["plugins", "new", "wanted", "--kind", "model", "--into", str(tmp_path)]) == 2
    assert "which taken 2 offers" in capsys.readouterr().err
    assert new(tmp_path, "wanted", "dataset").exists()


def test_an_unknown_kind_is_refused_with_near_ones(tmp_path, capsys):
    assert main(["plugins", "new", "mine", "--kind", "rewards", "--into", str(tmp_path)]) == 2
    assert "got 'rewards'. Did you mean reward_function?" in capsys.readouterr().err


def test_a_folder_that_exists_is_refused_and_left_as_it_is(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert main(["plugins", "new", "mine", "--kind", "model", "--into", str(tmp_path)]) == 2
    assert f"the folder of a new package must not exist, got {tmp_path / 'mine'}." in capsys.readouterr().err
    assert not list((tmp_path / "mine").iterdir())


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["plugins", "new", "mine", "--kind", "model", "--into", str(tmp_path / "file")]) == 2
    assert "must be a folder that can be written, got:" in capsys.readouterr().err


def test_writing_a_package_imports_nothing_heavy(tmp_path):
    code = f"""
import sys
from lightning_rlhf.cli.main import main
main(["plugins", "new", "mine", "--kind", "ranking_converter", "--into", {str(tmp_path)!r}])
assert not {{"torch", "transformers", "numpy", "lightning", "jsonargparse"}} & set(sys.modules)
"""
    run(tmp_path, tmp_path, "-c", code)
