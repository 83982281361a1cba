"""Every stage under every precision, with and without LoRA: trains, and leaves a model that transformers loads."""

import pytest
import torch
from lightning.pytorch.plugins import DeepSpeedPrecision, FSDPPrecision
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MixtralConfig,
    PhimoeConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoRA
from lightning_rlhf.plugin_system.interfaces import ModelSource

LOADERS = {
    "sft": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
    "ppo": AutoModelForCausalLM,
}


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("stage", list(LOADERS))
def test_a_stage_trains_and_leaves_a_model_that_transformers_loads(kit, tmp_path, stage, precision, adapter):
    module, data = kit.stage(stage, adapter=adapter)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    before = {name: weight.detach().to(dtype, copy=True) for name, weight in module.named_parameters()}
    trainer = kit.fit((module, data), tmp_path, precision=precision)
    moved = [name for name, weight in module.named_parameters() if not torch.equal(weight.detach(), before[name])]
    assert moved
    assert adapter is None or all("lora" in name or "head" in name for name in moved)
    metrics = trainer.callback_metrics
    assert all(value.isfinite() for name, value in metrics.items() if "accuracy" not in name)
    assert {"train/loss"} <= metrics.keys()
    assert any(name.startswith("val/") for name in metrics)
    model, info = LOADERS[stage].from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model(**tokenizer("say", return_tensors="pt", return_token_type_ids=False)).logits.isfinite().all()


class Architecture(ModelSource):
    """Random weights of an architecture, with the tiny model's tokenizer."""

    def __init__(self, config: type[PreTrainedConfig], **options: object) -> None:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        self.config = config(vocab_size=300, num_attention_heads=2, num_key_value_heads=1, **sizes, **options)

    def load(self):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(self.config), TinyModel().load()[1]


ADAPTED = {
    "tied embeddings": (Qwen2Config, {"tie_word_embeddings": True}, ["q_proj", "embed_tokens"]),
    "experts": (MixtralConfig, {"num_local_experts": 2}, "all-linear"),
}


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "alone"])
@pytest.mark.parametrize("case", list(ADAPTED))
def test_the_model_has_the_loss_that_its_run_ended_with(kit, tmp_path, case, merge):
    config, options, layers = ADAPTED[case]
    kit.fit(kit.sft(base=Architecture(config, **options)), tmp_path / "base", limit_val_batches=0)
    adapter = LoRA(rank=4, target_modules=layers)
    run = kit.sft(base=str(tmp_path / "base" / "model"), adapter=adapter, learning_rate=0.05, merge_adapter=merge)
    ended = kit.fit(run, tmp_path / "run", max_epochs=2).callback_metrics["val/loss"]
    run = kit.sft(base=str(tmp_path / "run" / "model"))
    (metrics,) = kit.trainer(tmp_path).validate(*run, verbose=False)
    assert metrics["val/loss"] == pytest.approx(float(ended), abs=1e-5)


@pytest.mark.parametrize("stage", list(LOADERS))
def test_layers_that_cannot_be_trained_are_refused_before_the_first_step(kit, tmp_path, stage):
    base = Architecture(PhimoeConfig, num_local_experts=2)
    module, data = kit.stage(stage, base=base, adapter=LoRA(target_modules=["router"]))
    trainer = kit.trainer(tmp_path)
    with pytest.raises(ConfigError, match=r"Leave out router\."):
        trainer.fit(module, data)
    assert trainer.global_step == 0


def test_three_stages_build_on_each_other(kit, tmp_path):
    kit.fit(kit.sft(data={"template": None}), tmp_path / "sft")
    base = str(tmp_path / "sft" / "model")
    kit.fit(kit.reward(base=base), tmp_path / "reward")
    module, data = kit.ppo(base=base, reward_model=str(tmp_path / "reward" / "model"))
    assert module.recorded_template is not None
    kit.fit((module, data), tmp_path / "ppo")
    assert (tmp_path / "ppo" / "model" / "config.json").is_file()


@pytest.mark.parametrize("stage", list(LOADERS))
def test_a_stage_can_be_tested_and_can_predict(kit, tmp_path, stage):
    run = kit.stage(stage)
    trainer = kit.trainer(tmp_path)
    (metrics,) = trainer.test(*run, verbose=False)
    assert metrics
    assert all(name.startswith("test/") for name in metrics)
    rows = [row for batch in trainer.predict(*run) for row in batch]
    assert len(rows) == (6 if stage == "reward" else 2)
    assert {"prompt", "response"} <= rows[0].keys()


@pytest.mark.parametrize("stage", list(LOADERS))
def test_gradient_checkpointing_changes_no_gradient(kit, tmp_path, stage):
    with_it, without = (
        kit.gradients(lambda on=on: kit.stage(stage, gradient_checkpointing=on), tmp_path, max_steps=1)
        for on in (True, False)
    )
    assert with_it[0].keys() == without[0].keys()
    for name, gradient in without[0].items():
        torch.testing.assert_close(with_it[0][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("plugin", [DeepSpeedPrecision, FSDPPrecision])
def test_the_precision_of_a_strategy_that_is_refused_is_refused_too(kit, tmp_path, plugin):
    with pytest.raises(ConfigError, match=rf"got {plugin.__name__}\. Set trainer\.precision in its place\."):
        kit.fit(kit.sft(), tmp_path, plugins=[plugin("bf16-mixed")])
