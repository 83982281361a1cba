"""PPO: what it starts from, what moves, what must not."""

import dataclasses

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint
from torch import nn
from transformers import LlamaForCausalLM

from lightning_rlhf.builtins.converters import LinearConverter
from lightning_rlhf.errors import ConfigError, DataError, ModelError
from lightning_rlhf.models import LoRA, SeparateActorCritic, SharedActorCritic, adapters
from lightning_rlhf.modules import AdaptiveKL
from lightning_rlhf.plugin_system.interfaces import ModelSource


class NoisyModel(LlamaForCausalLM):
    """Randomness that no module shows: a functional dropout that is always on."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = nn.functional.dropout(output.logits, 0.5, training=True)
        return output


class Noisy(ModelSource):
    def __init__(self, source):
        self.source = source

    def load(self):
        model, tokenizer = self.source.load()
        model.__class__ = NoisyModel
        return model, tokenizer


class Watch(L.Callback):
    """Weights and loader as they were after each optimizer step, and what was validated."""

    def __init__(self):
        self.weights, self.stopped, self.validations, self.rollouts = [], [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.weights.append(
            torch.cat([weight.detach().flatten() for weight in module.actor_critic.policy.parameters()])
        )
        self.stopped.append(module._updates_stopped)
        self.rollouts.append(module._loader.rollout)

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)


def test_target_kl_stops_updates_but_not_steps_validation_or_checkpoints(kit, tmp_path):
    watch, checkpoint = (
        Watch(),
        ModelCheckpoint(tmp_path / "c", every_n_train_steps=2, save_top_k=-1, filename="{step}"),
    )
    run = kit.ppo(target_kl=1e-3, num_epochs=4, lr_schedule="constant", weight_decay=0.1)
    trainer = kit.fit(
        run, tmp_path, max_epochs=2, callbacks=[watch, checkpoint], enable_checkpointing=True, val_check_interval=4
    )
    assert trainer.global_step == 16
    assert watch.validations == [4, 8, 12, 16]
    assert len(list((tmp_path / "c").iterdir())) == 8
    first = watch.stopped.index(True)
    assert 0 < first < 7
    assert not watch.stopped[8]  # a new rollout is learned from again
    for step in range(1, 16):
        moved = not torch.equal(watch.weights[step], watch.weights[step - 1])
        assert moved != watch.stopped[step], step  # neither momentum nor decay moves a weight
    last = watch.stopped[8:]
    assert 0 < sum(last) < 8
    assert float(trainer.callback_metrics["policy/skipped_share"]) == sum(last) / 8


def test_a_validation_reports_sampled_responses_and_the_greedy_ones_under_their_own_names(kit, tmp_path, monkeypatch):
    module, data = kit.ppo()
    evaluated = module._evaluation
    kept = {}

    def keep(batch, *, greedy):
        kept[greedy] = evaluated(batch, greedy=greedy)
        return kept[greedy]

    monkeypatch.setattr(module, "_evaluation", keep)
    metrics = kit.trainer(tmp_path).validate(module, data, verbose=False)[0]
    for prefix, greedy in (("", False), ("greedy_", True)):
        for name in ("score", "response_length"):
            assert metrics[f"val/{prefix}{name}"] == pytest.approx(float(kept[greedy].columns[name].mean()))
    sampled, greedy = ([sample.response for sample in kept[each].samples] for each in (False, True))
    assert sampled != greedy
    again = evaluated(next(iter(data.val_dataloader())), greedy=True)
    assert [sample.response for sample in again.samples] == greedy


def test_a_stop_within_a_window_drops_the_whole_window(kit, tmp_path):
    watch = Watch()
    run = kit.ppo(target_kl=1e-9, minibatch_size=2, lr_schedule="constant")
    kit.fit(run, tmp_path, accumulate_grad_batches=2, callbacks=[watch])
    # the second window begins with other weights than the ones that sampled
    assert watch.stopped == [False, False, True, True, True, True, True, True]
    assert not torch.equal(watch.weights[0], watch.weights[1])
    assert all(torch.equal(watch.weights[1], weights) for weights in watch.weights[1:])


@pytest.mark.parametrize("options", [{}, {"adapter": LoRA(rank=2)}, {"value_model": "shared"}, {"temperature": 0.7}])
def test_with_learning_rate_zero_the_ratio_stays_one(kit, tmp_path, options):
    module, data = kit.ppo(learning_rate=0.0, **options)
    watch = Watch()
    trainer = kit.fit((module, data), tmp_path, max_epochs=2, callbacks=[watch])
    metrics = trainer.callback_metrics
    assert float(metrics["policy/clip_fraction"]) == 0
    assert abs(float(metrics["policy/approx_kl"])) <= 1e-8
    assert abs(float(metrics["objective/kl"])) <= 1e-4
    rollout = watch.rollouts[-1]
    with torch.no_grad():
        _, logprobs, values = module._evaluated(torch.arange(len(rollout.response_ids)))
    assert float((logprobs - rollout.old_logprobs).abs().max()) <= 1e-5
    torch.testing.assert_close(values(), rollout.old_values, rtol=0, atol=1e-5)


def test_the_reference_stays_bitwise_frozen_while_the_policy_moves(kit, tmp_path):
    module, data = kit.ppo()
    before = {name: weight.clone() for name, weight in module.actor_critic.reference.state_dict().items()}
    start = {name: weight.clone() for name, weight in module.actor_critic.policy.state_dict().items()}
    kit.fit((module, data), tmp_path, max_epochs=2)
    assert all(torch.equal(weight, before[name]) for name, weight in module.actor_critic.reference.state_dict().items())
    assert any(not torch.equal(weight, start[name]) for name, weight in module.actor_critic.policy.state_dict().items())


def test_with_lora_the_frozen_weights_stay_and_both_adapters_move(kit, tmp_path):
    module, data = kit.ppo(adapter=LoRA(rank=2))
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    kit.fit((module, data), tmp_path, max_epochs=2)
    moved = {name for name, weight in module.named_parameters() if not torch.equal(weight, before[name])}
    assert any(".policy." in name and "lora_B" in name for name in moved)
    assert any(".value." in name and "lora_B" in name for name in moved)
    assert all("lora" in name or "value_head" in name for name in moved)


def test_randomness_in_the_model_is_reported_at_the_first_rollout(kit, tmp_path):
    with pytest.raises(ModelError, match="the policy must start at the reference"):
        kit.fit(kit.ppo(base=Noisy(kit.model())), tmp_path, limit_val_batches=0)
    with pytest.raises(ModelError, match="rollout and update must agree"):
        kit.fit(kit.ppo(base=Noisy(kit.model()), reference=kit.model()), tmp_path, limit_val_batches=0)


def test_a_frozen_value_adapter_is_reported_in_the_first_step(kit, tmp_path, monkeypatch):
    def freezing(model, name):  # as peft's own set_adapter does it
        for layer in adapters._adapter_layers(model):
            layer.set_adapter(name)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(adapters.adapter_of(key) == "policy")

    class FreezingCallback(Callback):
        def on_train_start(self, trainer, pl_module):  # the trial before the run found nothing amiss
            monkeypatch.setattr(adapters, "activate_adapter", freezing)

    with pytest.raises(ModelError, match="the weights of the value model must get a gradient"):
        kit.fit(kit.ppo(adapter=LoRA(rank=2)), tmp_path, limit_val_batches=0, callbacks=[FreezingCallback()])


def test_a_reference_that_is_trained_is_reported(kit, tmp_path):
    module, data = kit.ppo()
    module.actor_critic.reference.requires_grad_(True)
    with pytest.raises(ModelError, match="the reference must be frozen"):
        kit.fit((module, data), tmp_path, limit_val_batches=0)


def test_the_converter_ranks_the_responses_of_each_prompt(kit, tmp_path):
    watch = Watch()
    run = kit.ppo(
        num_responses_per_prompt=4,
        rollout_size=3,
        converter=LinearConverter(),
        learning_rate=0.0,
        gamma=1.0,
        kl_coef=0.0,
    )
    trainer = kit.fit(run, tmp_path, callbacks=[watch])
    rollout = watch.rollouts[-1]
    assert len(rollout.response_ids) == 12
    for first in range(0, 12, 4):  # K neighbours answer the same prompt
        assert (rollout.prompt_ids[first : first + 4] == rollout.prompt_ids[first]).all()
    assert abs(float(trainer.callback_metrics["objective/scores"])) < 1e-6  # linear: each prompt's rewards sum to 0


def test_a_minibatch_passes_the_prompt_of_several_responses_once(kit, tmp_path):
    module, data = kit.ppo(num_responses_per_prompt=4, rollout_size=3, learning_rate=0.0)
    kit.fit((module, data), tmp_path, limit_val_batches=0)
    counts = []
    module.actor_critic.policy.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: counts.append(args[0].numel())
    )
    order = torch.tensor([7, 2, 10, 0, 5, 8, 1, 3, 11, 4, 9, 6])
    with torch.no_grad():
        rollout, logprobs, values_of = module._evaluated(order)
        values = values_of()
        num_prompts = len(rollout.prompt_ids.unique(dim=0))
        num_passed, (_, *calls) = sum(counts), counts
        assert len(calls) == 1
        assert counts[0] == num_prompts * (rollout.prompt_mask.sum(-1).max() - 1)
        module.settings = dataclasses.replace(module.settings, num_responses_per_prompt=1)
        counts.clear()
        _, expected, values_of = module._evaluated(order)
        expected_values = values_of()
    assert num_passed < 0.8 * sum(counts)
    back = order.argsort()
    torch.testing.assert_close(logprobs, expected[back], atol=1e-5, rtol=0)
    torch.testing.assert_close(values, expected_values[back], atol=1e-5, rtol=0)


def test_the_value_model_starts_from_the_reward_model(kit, tmp_path):
    kit.fit(kit.reward(), tmp_path)
    module, _ = kit.ppo(reward_model=str(tmp_path / "model"))
    assert isinstance(module.actor_critic, SeparateActorCritic)
    reward = module.reward_models[0].state_dict()
    assert all(
        torch.equal(weight, reward[name]) for name, weight in module.actor_critic.value_model.state_dict().items()
    )
    assert not any(weight.requires_grad for weight in module.reward_models.parameters())


def test_a_shared_value_model_is_one_trunk_with_a_zero_head(kit, tmp_path):
    module, data = kit.ppo(value_model="shared")
    assert isinstance(module.actor_critic, SharedActorCritic)
    assert not module.actor_critic.value_head.weight.any()
    kit.fit((module, data), tmp_path, max_epochs=2)
    assert module.actor_critic.value_head.weight.any()


def test_the_adaptive_coefficient_follows_the_kl(kit, tmp_path):
    module, data = kit.ppo(kl_controller=AdaptiveKL(target=1e6, horizon=16), kl_coef=0.5)
    kit.fit((module, data), tmp_path, max_epochs=3)
    assert module.kl_coef == pytest.approx(0.5 * (1 - 0.2 * 8 / 16) ** 3)


def test_unstopped_responses_are_masked_out_of_the_loss(kit, tmp_path):
    watch = Watch()
    trainer = kit.fit(kit.ppo(mask_unstopped=True, max_response_length=40), tmp_path, callbacks=[watch])
    rollout = watch.rollouts[-1]
    stopped = rollout.loss_mask.any(-1)
    assert torch.equal(rollout.loss_mask[stopped], rollout.completion_mask[stopped])
    assert float(trainer.callback_metrics["rollout/masked_rate"]) == pytest.approx(float((~stopped).float().mean()))
    assert not stopped.all()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step..` before")  # as with target_kl
def test_a_window_without_a_token_in_the_loss_moves_no_weight(kit, tmp_path):
    module, data = kit.ppo(mask_unstopped=True, max_response_length=1, weight_decay=0.1, lr_schedule="constant")
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    watch = Watch()
    with pytest.warns(UserWarning, match="nothing was learned"), pytest.raises(DataError, match="must learn something"):
        kit.fit((module, data), tmp_path, callbacks=[watch])
    assert not watch.rollouts[-1].loss_mask.any()
    assert module.trainer.global_step == 4
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())


@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches != 1.`")  # lightning's advice
def test_a_window_that_grows_with_the_epochs_has_its_own_denominator(kit, tmp_path):
    weights = []
    for options in ({"accumulate_grad_batches": 2}, {"callbacks": [GradientAccumulationScheduler({0: 2})]}):
        module, data = kit.ppo(max_response_length=9)
        kit.fit((module, data), tmp_path, limit_val_batches=0, **options)
        weights.append([weight.detach().clone() for weight in module.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))


def test_a_missing_stop_token_costs_its_penalty(kit, tmp_path):
    scores = []
    for penalty in (0.0, 3.0):
        trainer = kit.fit(kit.ppo(missing_stop_penalty=penalty, learning_rate=0.0), tmp_path)
        scores.append(float(trainer.callback_metrics["objective/scores"]))
        stop_rate = float(trainer.callback_metrics["rollout/stop_rate"])
    assert scores[0] - scores[1] == pytest.approx(3.0 * (1 - stop_rate), abs=1e-5)


def test_the_score_of_a_simple_reward_rises(kit, tmp_path):
    class Curve(L.Callback):
        def __init__(self):
            self.scores = []

        def on_train_epoch_end(self, trainer, module):
            self.scores.append(module._rollout_metrics["objective/scores"])

    curve = Curve()
    run = kit.ppo(
        base=kit.model(hidden_size=32),
        rollout_size=32,
        minibatch_size=32,
        num_epochs=3,
        max_response_length=4,
        learning_rate=1e-2,
        value_coef=0.5,
        kl_coef=0.0,
    )
    kit.fit(run, tmp_path, max_epochs=25, callbacks=[curve], limit_val_batches=0)
    assert sum(curve.scores[:3]) / 3 < 0.25
    assert sum(curve.scores[-3:]) / 3 > 0.6


def test_samples_show_both_kinds_of_response_to_a_prompt(kit, tmp_path):
    module, data = kit.ppo()
    trainer = kit.trainer(tmp_path)
    batches = []
    module.take_samples = lambda: batches.append(module.heldout.take_samples()) or batches[-1]
    trainer.validate(module, data, verbose=False)
    assert [sample.label for sample in batches[0]] == ["sampled", "greedy"] * 3
    assert batches[0][0].prompt == batches[0][1].prompt
    assert batches[0][0].scores.keys() == {"LowerCase"}


def test_a_ptx_coefficient_without_pretraining_rows_is_refused(kit, tmp_path):
    with pytest.raises(ConfigError, match="PromptData must have a ptx_source when ptx_coef is set, got none"):
        kit.fit(kit.ppo(ptx_coef=0.1), tmp_path)


def test_pretraining_rows_without_a_coefficient_are_pointed_out(kit, tmp_path):
    with pytest.warns(UserWarning, match="ptx_source has rows that nothing is learned from: ptx_coef is 0"):
        kit.fit(kit.ppo(data={"ptx_source": kit.Demonstrations()}), tmp_path, limit_val_batches=0)


def test_a_second_trainer_gets_scorers_of_its_own(kit, tmp_path):
    module, data = kit.ppo()
    kit.trainer(tmp_path).validate(module, data, verbose=False)
    first = module._pipeline
    kit.trainer(tmp_path).validate(module, kit.ppo()[1], verbose=False)
    assert module._pipeline is not first


def test_a_prompt_that_leaves_no_room_for_a_response_is_refused_before_the_first_rollout(kit, tmp_path, monkeypatch):
    module, data = kit.ppo(base=kit.model(max_positions=12), max_response_length=6)
    monkeypatch.setattr(module, "_collect", None)
    with pytest.raises(ConfigError, match=r"together must fit the model's 12 positions, got 14\. Lower"):
        kit.fit((module, data), tmp_path, limit_val_batches=0)
