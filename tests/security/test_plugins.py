"""Plug-ins: what is installed may run, when it is let; what a list or a name says may not."""

import subprocess
import sys

import pytest

from lightning_rlhf.errors import UnknownComponentError


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
