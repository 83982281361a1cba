"""The stages through the command line, on the stand-in."""

import json

import pytest
import smollm2_readme as readme
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lightning_rlhf.models import load_base


@pytest.fixture
def folder(tiny_wheel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    readme.write_files(tmp_path)
    return tmp_path


def test_every_command_of_the_readme_runs(folder):
    assert readme.COMMANDS == [
        "fit --config sft.yaml",
        "predict --config sft.yaml --ckpt_path last",
        "fit --config ppo.yaml",
    ]
    for command in readme.COMMANDS:
        readme.run(command)
    lines = (folder / "runs/sft/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert "Be kind." in json.loads(lines[0])["prompt"]  # what the tokenizer's own template writes
    for stage in ("sft", "ppo"):
        loaded = load_base(str(folder / "runs" / stage / "model"))
        assert loaded.template.class_path.endswith("tokenizer")
        assert loaded.tokenizer.pad_token == "<|im_end|>"


def test_a_reward_model_scores_the_stop_token_though_the_tokenizer_pads_with_it(folder):
    rows = [{"prompt": "Hello.", "chosen": "Hi!", "rejected": "No, no, never."}]
    (folder / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    readme.run(
        "fit --model RewardModule --model.base smollm2 --data RankingData --data.source file --data.template chatml "
        "--data.source.path rankings.jsonl --trainer.max_steps 1 --trainer.default_root_dir runs/reward"
    )
    directory = folder / "runs/reward/model"
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.config.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer.encode("<|im_start|>assistant\nHi!<|im_end|>", return_tensors="pt")
    assert ids[0, -1] == tokenizer.eos_token_id
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
        assert torch.equal(model(ids).logits[0], model.score(hidden[0, -1]))  # not the token before it
