"""The configs of the demo's four runs, which `configs/*/demo.yaml` shows as files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BASE", "MAX_RESPONSE_LENGTH", "STAGES", "TEMPERATURE", "stage_config", "write_config"]

STAGES = ("pretrain", "sft", "reward", "ppo")
MAX_RESPONSE_LENGTH = 24
TEMPERATURE = 0.75
"""At 1 every sixth word of a model this small is a slip; PPO samples, scores and compares at the same temperature."""
BASE = {"vocabulary_size": 4000, "hidden_size": 128, "num_layers": 3, "num_heads": 4, "max_positions": 128}
_TEMPLATE = {"class_path": "plain", "init_args": {"response_separator": "\n"}}


def stage_config(stage: str, output: Path, *, seed: int) -> dict[str, Any]:
    """The config of one run.

    Args:
        stage: pretrain, sft, reward or ppo.
        output: folder of the demo.
        seed: of the run.
    """
    module, arguments, data, trainer = _STAGES[stage](output)
    name, data_arguments = data
    return {
        "seed_everything": seed,
        "model": {"class_path": module, "init_args": arguments},
        "data": {"class_path": name, "init_args": data_arguments},
        "trainer": {
            "default_root_dir": str(output / stage),
            "accelerator": "cpu",
            "gradient_clip_val": 1.0,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **trainer,
        },
    }


def write_config(stage: str, output: Path, *, seed: int) -> Path:
    """Writes the config of one run to `<output>/configs/<stage>.yaml`."""
    path = output / "configs" / f"{stage}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(stage_config(stage, output, seed=seed), sort_keys=False), encoding="utf-8")
    return path


Stage = tuple[str, dict[str, Any], tuple[str, dict[str, Any]], dict[str, Any]]


def _source(output: Path, name: str) -> dict[str, Any]:
    paths = {
        "train": str(output / "data" / f"{name}-train.jsonl"),
        "validation": str(output / "data" / f"{name}-heldout.jsonl"),
    }
    return {"class_path": "file", "init_args": {"path": paths}}


def _pretrain(output: Path) -> Stage:
    model = {
        "base": str(output / "base"),
        "learning_rate": 3.0e-3,
        "warmup_steps": 20,
        "lr_schedule": "cosine",
        "max_response_length": MAX_RESPONSE_LENGTH,
    }
    data = {
        "source": _source(output, "texts"),
        "template": _TEMPLATE,
        "batch_size": 6,
        "max_length": 128,
        "packing": True,
    }
    return "SFTModule", model, ("DemonstrationData", data), {"max_epochs": 1}


def _sft(output: Path) -> Stage:
    model = {
        "base": str(output / "pretrain" / "model"),
        "learning_rate": 1.0e-3,
        "warmup_steps": 20,
        "lr_schedule": "cosine",
        "max_response_length": MAX_RESPONSE_LENGTH,
    }
    data = {"source": _source(output, "dialogues"), "batch_size": 32, "max_length": 128}
    return "SFTModule", model, ("DemonstrationData", data), {"max_epochs": 2}


def _reward(output: Path) -> Stage:
    model = {
        "base": str(output / "sft" / "model"),
        "learning_rate": 1.0e-3,
        "warmup_steps": 10,
        "lr_schedule": "cosine",
        "loss": "regression",
    }
    data = {"source": _source(output, "rankings"), "batch_size": 8, "max_length": 128}
    return "RewardModule", model, ("RankingData", data), {"max_epochs": 1}


def _ppo(output: Path) -> Stage:
    model = {
        "base": str(output / "sft" / "model"),
        "reward_model": str(output / "reward" / "model"),
        # without it the policy would learn to be brief: every token costs KL
        "rewards": [{"class_path": "length", "init_args": {"minimum": 9, "scale": 20.0}}],
        "learning_rate": 3.0e-4,
        # a reward model says little in the middle of a response; a new head on the policy learns sooner
        "value_model": "shared",
        "value_learning_rate": 3.0e-3,
        "value_clip_range": 10.0,
        "warmup_steps": 8,
        # many samples, each learned from once: rare friendly sentences get their share of the gradient too
        "rollout_size": 512,
        "minibatch_size": 128,
        "num_epochs": 1,
        "max_response_length": MAX_RESPONSE_LENGTH,
        "temperature": TEMPERATURE,
        # normalised, the coefficient below does not depend on the scale of the reward model
        "score_normalizer": {"class_path": "lightning_rlhf.rollout.ScoreNormalizer"},
        "kl_coef": 0.06,
        "value_coef": 0.2,
        # without it the policy would end with one friendly sentence for every question
        "ptx_coef": 0.5,
        "missing_stop_penalty": 0.3,
    }
    data = {
        "source": _source(output, "prompts"),
        "ptx_source": {"class_path": "file", "init_args": {"path": str(output / "data" / "dialogues-train.jsonl")}},
        "batch_size": 128,
    }
    # one seed's reward is easier to get than another's: all may spend the same KL on it
    budget = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {
            "monitor": "objective/kl",
            "mode": "max",
            "stopping_threshold": 3.2,
            "patience": 1000,
            "check_on_train_epoch_end": True,
        },
    }
    trainer = {"max_epochs": 16, "check_val_every_n_epoch": 8, "callbacks": [budget]}
    return "PPOModule", model, ("PromptData", data), trainer


_STAGES: dict[str, Callable[[Path], Stage]] = {"pretrain": _pretrain, "sft": _sft, "reward": _reward, "ppo": _ppo}
