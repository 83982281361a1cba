"""The page for those who come from other libraries, against the signatures here."""

import inspect
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from lightning_rlhf import AdaptiveKL, LoRA, PPOModule, PromptData
from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.builtins.sources import FileSource, HubSource
from lightning_rlhf.models import ScalarModel
from lightning_rlhf.rollout import ScoreNormalizer
from lightning_rlhf.testing import byte_tokenizer

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text(encoding="utf-8")
CLASSES = {
    "model": [PPOModule],
    "model.adapter": [LoRA],
    "model.kl_controller": [AdaptiveKL],
    "model.score_normalizer": [ScoreNormalizer],
    "data": [PromptData],
    "data.source": [FileSource, HubSource],
    "trainer": [pl.Trainer],
}
SECTIONS = re.findall(r"^### ([^\n]+)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)


def arguments(text):
    """What the second column of a section's table names."""
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [name for _, here, *_ in rows[1:] for name in re.findall(r"`([^`]+)`", here)]


def exists(name):
    parent, _, argument = name.rpartition(".")
    return any(argument in inspect.signature(cls).parameters for cls in CLASSES[parent])


@pytest.mark.parametrize(("section", "text"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_every_argument_of_a_table_is_one_of_ours(section, text):
    named = arguments(text)
    assert len(named) > 15
    assert [name for name in named if name != "seed_everything" and not exists(name)] == []


def test_the_tables_lead_from_all_four_libraries():
    assert [title.partition(",")[0] for title, _ in SECTIONS] == ["TRL", "TRL", "trlX", "OpenRLHF", "verl"]


def test_what_the_page_says_elsewhere_of_an_argument_exists():
    outside = PAGE[PAGE.index("## What behaves differently") :]
    named = re.findall(r"`((?:model|data|trainer)\.[\w.]+)(?:: [^`]*)?`", outside)
    assert [name for name in named if not exists(name)] == []
    flat = re.findall(r"`(missing_stop_penalty|mask_unstopped|value_coef|reward_weights)`", PAGE)
    assert len(set(flat)) == 4
    assert all(exists(f"model.{name}") for name in flat)


def test_defaults_are_what_the_tables_say():
    defaults = {name: value.default for name, value in inspect.signature(PPOModule).parameters.items()}
    said = {"kl_coef": 0.05, "clip_range": 0.2, "value_clip_range": 0.2, "value_coef": 0.1, "gamma": 1.0}
    said |= {"gae_lambda": 0.95, "num_epochs": 4, "temperature": 1.0, "value_model": "separate"}
    assert {name: defaults[name] for name in said} == said


def test_the_config_of_the_page_has_arguments_that_exist():
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1])
    inspect.signature(PPOModule).bind(**config["model"]["init_args"])
    inspect.signature(PromptData).bind(**config["data"]["init_args"])
    inspect.signature(pl.Trainer).bind(**config["trainer"])


def test_a_reward_model_of_transformers_scores_here_as_there(tmp_path):
    """With a padding token of its own; where pad is a stop token, transformers reads another position."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **shape)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([tokenizer("good")["input_ids"]])
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ours = ScalarModel.load(str(tmp_path)).model
    last = torch.zeros(ids.shape, dtype=torch.bool)
    last[:, -1] = True
    with torch.no_grad():
        score = ours(TokenBatch(ids, torch.ones_like(last), torch.arange(ids.shape[1])[None]), last)
        torch.testing.assert_close(score, theirs(ids).logits[:, 0], atol=1e-6, rtol=0)
