"""Plug-ins: what is installed may run, when it is let; what a list or a name says may not."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_rlhf.errors import PluginError, UnknownComponentError
from lightning_rlhf.plugin_system.reporting import PluginWarning


def test_a_plug_in_that_is_not_let_in_is_not_imported(fake_plugins, payload):
    fake_plugins.install("evil", payload.source)
    for environ in ({"LIGHTNING_RLHF_LOAD_PLUGINS": ""}, {"LIGHTNING_RLHF_DISABLE_PLUGINS": "evil"}):
        record = next(plugin for plugin in fake_plugins.manager(**environ).plugins if plugin.distribution == "evil")
        assert record.status == "disabled"


@pytest.mark.parametrize("name", ["evil_module", "evil_module:x", "os", "/tmp/evil_module.py", "evil_module; touch x"])
def test_a_list_of_plug_ins_holds_names_of_distributions_and_imports_nothing(fake_plugins, payload, evil_module, name):
    for variable in ("LIGHTNING_RLHF_LOAD_PLUGINS", "LIGHTNING_RLHF_DISABLE_PLUGINS", "LIGHTNING_RLHF_STRICT_PLUGINS"):
        fake_plugins.manager(**{variable: name})


def test_listing_plug_ins_imports_no_component(fake_plugins, payload, evil_module):
    fake_plugins.install(
        "harmless",
        """
        from lightning_rlhf import Component, hookimpl

        @hookimpl
        def rlhf_reward_functions():
            return [Component("score", "evil_module:Score")]
        """,
    )
    assert "score" in fake_plugins.manager().components("reward_function")


@pytest.mark.parametrize("place", ["plug-in", "hook", "component"])
def test_none_moves_the_run_by_being_imported(fake_plugins, place):
    """Neither one that nobody uses nor one that is in use; and it is named once."""
    move = "import os, random\nos.chdir('/')\nrandom.seed(90210)\n"
    source = """
from lightning_rlhf import Component, hookimpl

@hookimpl
def rlhf_reward_functions():
    {in_hook}
    return [Component("first", "its_rewards:First"), Component("second", "its_other_rewards:Second")]
"""
    rewards = "from lightning_rlhf import RewardFunction\nclass {}(RewardFunction):\n    def __call__(self): ...\n"
    moves = move if place == "component" else ""
    in_hook = "import os, random; os.chdir('/'); random.seed(90210)" if place == "hook" else "pass"
    fake_plugins.install(
        "mover",
        (move if place == "plug-in" else "") + source.format(in_hook=in_hook),
        its_rewards=moves + rewards.format("First"),
        its_other_rewards=moves + rewards.format("Second"),
    )

    def used(**environ):
        manager = fake_plugins.manager(**environ)
        for name in ("first", "second"):
            manager.resolve("reward_function", name)

    before = Path.cwd(), random.getstate()
    with pytest.warns(PluginWarning) as caught:
        used()
    assert (Path.cwd(), random.getstate()) == before
    (message,) = [str(warning.message) for warning in caught]
    assert message == (
        "plug-in mover 1.0 must change nothing but itself when it is imported: put back the working directory, "
        "Python's random numbers."
    )
    fake_plugins.forget()
    with pytest.raises(PluginError, match="plug-in mover"):
        used(LIGHTNING_RLHF_STRICT_PLUGINS="1")


def test_a_component_name_is_no_module(fake_plugins, payload, evil_module):
    from lightning_rlhf.registry import lookup

    for name in (evil_module, f"{evil_module}.Score", f"../{evil_module}", "os.system"):
        with pytest.raises(UnknownComponentError):
            lookup("reward_function", name)


def test_listing_looks_at_no_file_of_the_working_directory(tmp_path, payload):
    (tmp_path / "evil.dist-info").mkdir()
    (tmp_path / "evil.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (tmp_path / "evil.dist-info" / "entry_points.txt").write_text("[lightning_rlhf]\nevil = evil\n")
    (tmp_path / "evil.py").write_text(payload.source)
    code = (
        "import sys; sys.path = [entry for entry in sys.path if entry]; from lightning_rlhf.cli.main import main; "
        "main(['plugins', 'list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "evil" not in done.stdout
