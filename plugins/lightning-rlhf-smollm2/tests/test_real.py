"""The model itself; collected where the wheel is installed."""

import contextlib
import io
import json

import pytest
import smollm2_readme as readme
import torch

from lightning_rlhf.models import load_base
from lightning_rlhf.testing import ModelSourceContract

pytestmark = pytest.mark.real


class TestSmolLM2(ModelSourceContract):
    component = "smollm2"


@pytest.fixture(scope="module")
def loaded():
    return load_base("smollm2")


def test_it_is_the_model_that_the_readme_describes(loaded):
    config = loaded.model.config
    assert round(loaded.model.num_parameters() / 1e6) == 135
    assert (config.num_hidden_layers, config.max_position_embeddings) == (30, 8192)
    assert loaded.model.dtype == torch.float32
    assert (loaded.tokenizer.pad_token, loaded.tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")


def test_the_snippet_of_the_readme_prints_what_it_says():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(readme.SNIPPET, {})
    assert printed.getvalue() == readme.PRINTED


def test_every_command_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    readme.write_files(tmp_path)
    for command in readme.COMMANDS:
        readme.run(command)
    lines = (tmp_path / "runs/sft/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [prediction["response"][:7] for prediction in predictions] == ["The cat", "The dog"]
