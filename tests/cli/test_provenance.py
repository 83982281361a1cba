"""Which plug-ins made a run: in its config, its checkpoints and its model, and when it goes on."""

import gc
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from lightning_rlhf.cli.main import main
from lightning_rlhf.version import __version__

USED = """
    from lightning_rlhf import Component, DataSource, Demonstration, Message, hookimpl

    class Greetings(DataSource):
        def load(self, split):
            row = Demonstration((Message("user", "Hello"), Message("assistant", "Hi!")))
            return [row] * 2 if split == "train" else []

    @hookimpl
    def rlhf_datasets():
        return [Component("greetings", Greetings)]
"""
UNUSED = """
    from lightning_rlhf import Component, hookimpl

    @hookimpl
    def rlhf_models():
        return [Component("idle", "idle_model:Model")]
"""
FAILS_ON_RANK_1 = (
    "    import os\n    if os.environ.get('LOCAL_RANK') == '1':\n        raise RuntimeError('no licence')\n"
)
FIT = [
    "fit", "--model=SFTModule", "--model.base.class_path=tiny", "--model.base.init_args.hidden_size=16",
    "--data=DemonstrationData", "--data.batch_size=1", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.default_root_dir=run",
]  # fmt: skip


@pytest.fixture
def fit(fake_plugins, tmp_path, monkeypatch):
    fake_plugins.install("greetings", USED, version="1.0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-rlhf"])

    def call(*words, source="greetings"):
        gc.collect()  # the class of that name that the last test's plug-in brought
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert main([*FIT, f"--data.source={source}", *words]) == 0
        return [str(item.message) for item in caught if "plug-ins" in str(item.message)]

    return call


def replace(fake_plugins, name, source, version):
    """As pip does when it upgrades."""
    for path in fake_plugins.folder.glob(f"{name}-*.dist-info"):
        shutil.rmtree(path)
    fake_plugins.install(name, source, version=version)
    fake_plugins.forget()


@pytest.mark.parametrize("source", ["greetings", "greetings.Greetings"])
def test_config_checkpoint_and_model_record_the_plug_ins_that_were_used_and_no_others(fit, fake_plugins, source):
    fake_plugins.install("idle", UNUSED)
    fake_plugins.forget()
    fit("--trainer.max_epochs=1", source=source)
    header = [line for line in Path("run/config.yaml").read_text().splitlines() if line.startswith("# plug-in")]
    assert header == ["# plug-in greetings==1.0"]
    used = {"lightning-rlhf": __version__, "greetings": "1.0"}
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["lightning_rlhf"]["plugins"] == used
    assert json.loads(Path("run/model/rlhf.json").read_text())["plugins"] == used


def test_resuming_with_another_version_warns_with_the_difference(fit, fake_plugins):
    fit("--trainer.max_epochs=1")
    replace(fake_plugins, "greetings", USED, "1.1")
    (warning,) = fit("--trainer.max_epochs=2", "--ckpt_path=last")
    assert warning == (
        "the checkpoint was written with other plug-ins than this run uses: greetings 1.0 -> 1.1."
    )  # fmt: skip
    assert fit("--trainer.max_epochs=3", "--ckpt_path=last") == []


def test_resuming_without_a_plug_in_warns_with_the_difference(fit):
    fit("--trainer.max_epochs=1")
    Path("rows.jsonl").write_text(json.dumps({"prompt": "Hello", "response": "Hi!"}) + "\n")
    (warning,) = fit("--trainer.max_epochs=2", "--ckpt_path=last", "--data.source.path=rows.jsonl", source="file")
    assert "greetings 1.0 -> absent" in warning


def test_a_plug_in_that_comes_and_is_not_used_warns_of_nothing(fit, fake_plugins):
    fit("--trainer.max_epochs=1")
    fake_plugins.install("idle", UNUSED)
    fake_plugins.forget()
    assert fit("--trainer.max_epochs=2", "--ckpt_path=last") == []


@pytest.mark.slow
def test_ranks_with_other_plug_ins_stop_with_the_difference(fake_plugins, tmp_path, monkeypatch):
    fake_plugins.install("greetings", USED)
    fake_plugins.install("licensed", FAILS_ON_RANK_1 + UNUSED)
    monkeypatch.chdir(tmp_path)
    words = [*FIT, "--data.source=greetings", "--trainer.strategy=ddp", "--trainer.devices=2"]
    (tmp_path / "run_it.py").write_text("import sys\nfrom lightning_rlhf.cli.main import main\nsys.exit(main())\n")
    result = fake_plugins.python(
        f"import runpy, sys\nsys.argv = ['run_it.py', *{words!r}]\nrunpy.run_path('run_it.py', run_name='__main__')"
    )
    assert result.returncode == 2
    assert "every rank must have the same plug-ins, got a difference: rank 1 has licensed not at all" in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("run").exists()
