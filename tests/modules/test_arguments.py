"""What the modules refuse, and what they remember of their arguments."""

import inspect
import math

import pytest
import torch

from lightning_rlhf.builtins.converters import LinearConverter
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import AdaptiveKL, PPOModule, RewardModule, SFTModule

WRONG = [
    ("sft", {"learning_rate": -1.0}, "learning_rate must be 0 or more, got -1.0."),
    ("sft", {"weight_decay": float("nan")}, "weight_decay must be a finite number, got nan."),
    ("sft", {"warmup_steps": -1}, "warmup_steps must be 0 or more, got -1."),
    ("sft", {"lr_schedule": "cosin"}, "lr_schedule must be one of constant, linear, cosine, got 'cosin'."),
    ("sft", {"lm_coef": -0.1}, "lm_coef must be 0 or more, got -0.1."),
    ("sft", {"neftune_alpha": -5.0}, "neftune_alpha must be 0 or more, got -5.0."),
    ("sft", {"max_response_length": 0}, "max_response_length must be at least 1, got 0."),
    ("reward", {"loss": "hinge"}, "loss must be one of pairwise, plackett_luce, regression, got 'hinge'."),
    ("reward", {"centering_coef": -1.0}, "centering_coef must be 0 or more, got -1.0."),
    ("reward", {"adapter": LoRA(dropout=0.1)}, "dropout of LoRA must be 0 for a reward model, got 0.1."),
    ("ppo", {"rollout_size": 0}, "rollout_size must be at least 1, got 0."),
    ("ppo", {"minibatch_size": 0}, "minibatch_size must be at least 1, got 0."),
    ("ppo", {"num_epochs": 0}, "num_epochs must be at least 1, got 0."),
    ("ppo", {"num_responses_per_prompt": 0}, "num_responses_per_prompt must be at least 1, got 0."),
    ("ppo", {"temperature": 0.0}, "temperature must be positive, got 0.0."),
    ("ppo", {"kl_coef": -0.1}, "kl_coef must be 0 or more, got -0.1."),
    ("ppo", {"target_kl": 0.0}, "target_kl must be positive or null, got 0.0."),
    ("ppo", {"clip_range": 1.0}, "clip_range must be between 0 and 1, got 1.0."),
    ("ppo", {"value_clip_range": 0.0}, "value_clip_range must be positive, got 0.0."),
    ("ppo", {"gamma": 1.1}, "gamma must be between 0 and 1, got 1.1."),
    ("ppo", {"gae_lambda": -0.1}, "gae_lambda must be between 0 and 1, got -0.1."),
    ("ppo", {"value_model": "none"}, "value_model must be one of separate, shared, got 'none'."),
    ("ppo", {"sampler": "vllm"}, "sampler must be one of builtin, transformers, got 'vllm'."),
    ("ppo", {"rewards": []}, "PPOModule must have a reward_model or rewards, got neither."),
    ("ppo", {"reward_weights": [1.0, 2.0]}, "reward_weights must have one entry per scorer (1), got 2."),
    (
        "ppo",
        {"converter": LinearConverter()},
        "num_responses_per_prompt must be at least 2 with a converter, got 1.",
    ),
]


@pytest.mark.parametrize(("stage", "options", "message"), WRONG)
def test_an_argument_that_cannot_work_is_refused(kit, stage, options, message):
    with pytest.raises(ConfigError) as refusal:
        kit.stage(stage, **options)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [SFTModule, RewardModule, PPOModule])
def test_every_number_of_a_module_must_be_finite(kit, kind, number):
    names = [name for name, of in inspect.signature(kind).parameters.items() if "float" in str(of.annotation)]
    assert len(names) >= 4
    for name in names:
        value = [number] if name == "reward_weights" else number
        with pytest.raises(ConfigError, match=f"^{name}"):
            kit.stage(kind.stage, **{name: value})


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")  # which comes before the refusal
def test_data_of_another_stage_is_refused(kit, tmp_path):
    with pytest.raises(ConfigError, match="SFTModule must be run with a DemonstrationData, got a RankingData"):
        kit.fit((kit.sft()[0], kit.reward()[1]), tmp_path)
    with pytest.raises(ConfigError, match="RewardModule must be run with a RankingData, got none"):
        kit.trainer(tmp_path).fit(kit.reward()[0], train_dataloaders=[])


def test_a_schedule_that_does_not_fit_the_run_is_refused(kit, tmp_path):
    with pytest.raises(ConfigError, match="warmup_steps must be smaller than the run's 3 optimizer steps, got 3"):
        kit.fit(kit.sft(warmup_steps=3), tmp_path)
    with pytest.raises(ConfigError, match="lr_schedule 'linear' must know the number of steps"):
        kit.fit(kit.sft(), tmp_path, max_epochs=-1, max_steps=-1, max_time="00:00:00:01")


def test_a_trial_run_takes_any_warm_up(kit, tmp_path):
    trainer = kit.fit(kit.sft(warmup_steps=3), tmp_path, fast_dev_run=True)
    assert trainer.global_step == 1


def trained(kit, path, stage, **options):
    """A checkpoint of a module whose base is a path."""
    kit.fit(kit.sft(), path / "base")
    module, data = kit.stage(stage, base=str(path / "base" / "model"), **options)
    trainer = kit.fit((module, data), path / stage)
    trainer.save_checkpoint(path / "last.ckpt")
    return module, path / "last.ckpt"


@pytest.mark.parametrize(("stage", "kind"), [("sft", SFTModule), ("reward", RewardModule)])
def test_a_module_of_plain_arguments_loads_from_its_checkpoint_alone(kit, tmp_path, stage, kind):
    module, path = trained(kit, tmp_path, stage, learning_rate=0.5)
    loaded = kind.load_from_checkpoint(path, weights_only=True)
    assert loaded.learning_rate == 0.5
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in module.state_dict().items())
    assert kind is not RewardModule or loaded.model.score_offset == module.model.score_offset


def test_what_is_no_plain_value_is_given_again_when_a_checkpoint_is_loaded(kit, tmp_path):
    options = {"adapter": LoRA(rank=2), "rewards": [kit.LowerCase()], "kl_controller": AdaptiveKL(1.0, 100)}
    module, path = trained(kit, tmp_path, "ppo", **options)
    assert not options.keys() & module.hparams.keys()
    assert all(isinstance(value, str | int | float | type(None)) for value in module.hparams.values())
    loaded = PPOModule.load_from_checkpoint(path, weights_only=True, **options)
    assert loaded.kl_coef == module.kl_coef
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in module.state_dict().items())


class Uncopyable:
    """Like a client of a web service."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


def test_a_component_need_not_be_copyable(kit):
    reward = kit.LowerCase()
    reward.client = Uncopyable()
    module, _ = kit.ppo(rewards=[reward])
    assert module.scorers.functions[0] is reward


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_an_adapter_starts_where_the_runs_seed_says(kit, monkeypatch, stage):
    starts = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        module, _ = kit.stage(stage, adapter=kit.LoRA(rank=2))
        starts.append(torch.cat([w.detach().flatten() for name, w in module.named_parameters() if "lora_A" in name]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
