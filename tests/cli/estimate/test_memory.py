"""Against passes of the run's own size, recorded; against what a process takes: tests/cli/plan/test_peak.py."""

import lightning as L
import pytest

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.cli.estimate import estimate_memory, peak_estimate
from lightning_rlhf.cli.estimate.allocations import recorded
from lightning_rlhf.cli.estimate.memory import _trained
from lightning_rlhf.cli.estimate.probes import micro_batch, training_pass, update_step
from lightning_rlhf.cli.prepared import Placement, attached
from lightning_rlhf.data import DemonstrationData, PromptData, RankingData
from lightning_rlhf.data.rows import Tally
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import PPOModule, RewardModule, SFTModule
from lightning_rlhf.plugin_system.interfaces import DataSource, RewardFunction
from lightning_rlhf.records import Demonstration, Message, Prompt, Ranking
from lightning_rlhf.rollout import collect_rollout
from lightning_rlhf.rollout.responses import repeat_prompts

STAGES = ("sft", "reward", "ppo")
SIZE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2}


class Records(DataSource):
    def __init__(self, records):
        self.records = records

    def load(self, split):
        return self.records if split == "train" else []


class Constant(RewardFunction):
    def __call__(self, prompts, responses, **columns):
        return [float(len(response)) for response in responses]


RECORDS = {
    "sft": [Demonstration((Message("user", "a" * 30), Message("assistant", "b" * 40))) for _ in range(24)],
    "reward": [Ranking("a" * 30, ("b" * 20, "c" * 20, "d" * 20), (0, 1, 2)) for _ in range(24)],
    "ppo": [Prompt(chr(ord("a") + row) * 30) for row in range(24)],  # equal neighbours would share their pass
}


def build(stage, *, data=None, placement=None, trainer=None, **options):
    L.seed_everything(1, verbose=False)
    modules = {"sft": SFTModule, "reward": RewardModule, "ppo": PPOModule}
    datas = {"sft": DemonstrationData, "reward": RankingData, "ppo": PromptData}
    if stage == "ppo":
        options = {"max_response_length": 12, "minibatch_size": 16, "rewards": [Constant()]} | options
    module = modules[stage](**{"base": TinyModel(**SIZE)} | options)
    made = datas[stage](**{"source": Records(RECORDS[stage]), "batch_size": 16} | (data or {}))
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "max_epochs": 1}
    return attached(module, made, L.Trainer(**quiet | (trainer or {})), placement or Placement("auto", 1, 1))


def rows_of(run):
    return list(run.data.stream("train", Tally()))


def estimates(stage, **options):
    run = build(stage, **options)
    return estimate_memory(run, rows_of(run))


def whole_pass(run, rows):
    """Forward pass of the run's own batch."""
    if run.module.stage != "ppo":
        return micro_batch(run, rows[: run.data.batch_size])
    module = run.module
    prompts = repeat_prompts(run.data.prompts("train").batch(range(16)), 1)
    rollout = collect_rollout(
        module.actor_critic,
        prompts,
        module.score_pipeline(),
        run.data.formatter,
        module.settings,
        module.rollout_runtime(),
        seed=1,
        iteration=0,
        kl_coef=0.1,
        batch_size=16,
    ).rollout
    return lambda: update_step(run, module, rollout)


@pytest.mark.parametrize(
    ("adapter", "accumulate", "checkpointing"), [(None, 1, False), (LoRA(rank=2), 2, False), (None, 2, True)]
)
@pytest.mark.parametrize("stage", STAGES)
def test_the_update_takes_what_two_steps_of_the_runs_own_size_take(stage, adapter, accumulate, checkpointing):
    trainer = {"accumulate_grad_batches": accumulate}
    run = build(stage, adapter=adapter, trainer=trainer, gradient_checkpointing=checkpointing)
    rows = rows_of(run)
    forward, weights = whole_pass(run, rows), _trained(run)

    def steps():
        for _ in range(2):
            loss = forward()
            if accumulate == 1:
                for weight in weights:
                    weight.grad = None
            loss.backward()

    taken = recorded(steps, run.module.device).peak
    for weight in weights:
        weight.grad = None
    update = estimate_memory(run, rows)["update"]
    assert update.gradients + update.activations + update.logits == pytest.approx(taken, rel=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_left_of_an_estimate(stage):
    run = build(stage)
    before = {name: weight.clone() for name, weight in run.module.named_parameters()}
    estimate_memory(run, rows_of(run))
    assert all(weight.grad is None for weight in run.module.parameters())
    assert all(bool((weight == before[name]).all()) for name, weight in run.module.named_parameters())


def test_states_do_not_grow_with_the_batch_and_what_a_pass_takes_does():
    small, large = (estimates("sft", data={"batch_size": size})["update"] for size in (4, 16))
    assert (small.weights, small.optimizer, small.gradients) == (large.weights, large.optimizer, large.gradients)
    assert 3 < (large.activations + large.logits) / (small.activations + small.logits) < 4.3


def test_an_adapter_saves_gradients_and_optimizer():
    whole, adapter = (estimates("sft", adapter=lora)["update"] for lora in (None, LoRA(rank=1)))
    assert adapter.gradients < whole.gradients / 4
    assert adapter.weights == whole.weights + adapter.gradients
    assert whole.optimizer == 2 * whole.gradients
    assert 0 <= whole.weights - whole.gradients < 100  # the buffers of metrics


def test_shards_divide_the_states_and_ddp_keeps_buckets():
    one = estimates("sft")["update"]
    sharded = estimates("sft", placement=Placement("ModelParallelStrategy", 4, 2))["update"]
    replicated = estimates("sft", placement=Placement("ddp", 4, 1))["update"]
    assert sharded.optimizer == one.optimizer // 8
    assert one.weights // 8 < sharded.weights < 2 * one.weights  # a shard, and what is gathered
    assert (replicated.gradients, replicated.weights) == (2 * one.gradients, one.weights)


def test_gradient_checkpointing_and_shorter_responses_take_less():
    plain = estimates("ppo")
    recomputed = estimates("ppo", gradient_checkpointing=True)
    shorter = estimates("ppo", max_response_length=4)
    assert recomputed["update"].activations < plain["update"].activations
    assert recomputed["sampling"].cache == plain["sampling"].cache
    for phase in ("update", "scoring", "sampling"):
        assert shorter[phase].total < plain[phase].total


def test_the_cache_holds_keys_and_values_of_all_layers_and_tokens():
    sampling = estimates("ppo", max_response_length=400)["sampling"]
    tokens = 16 * (len("a" * 30) + 2 + 400)  # a BOS and the line break of the plain template
    whole = 2 * SIZE["num_layers"] * SIZE["hidden_size"] * 4 * tokens
    assert whole <= sampling.cache <= 1.3 * whole  # and one layer's keys twice, while they grow


def test_a_batch_is_taken_as_it_is_packed():
    data = {"packing": True, "max_length": 160, "batch_size": 4}
    run = build("sft", data=data)
    rows = rows_of(run)
    assert len(rows[0]["lengths"]) == 2
    probe = training_pass(run, rows)
    assert (probe.size.rows, probe.targets) == (4, rows[0]["num_targets"])


def test_pretraining_rows_are_part_of_the_update():
    texts = Records([Demonstration((Message("user", "a"), Message("assistant", "b" * 200))) for _ in range(4)])
    plain = estimates("ppo")["update"]
    mixed = estimates("ppo", ptx_coef=1.0, data={"ptx_source": texts})["update"]
    assert mixed.activations + mixed.logits > 1.5 * (plain.activations + plain.logits)


def test_an_own_threshold_of_the_allocator_leaves_no_holes(monkeypatch):
    with_holes = estimates("sft")["update"]
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4096")
    without = estimates("sft")["update"]
    assert without.overhead < with_holes.overhead
    assert without.activations == with_holes.activations


def test_the_peak_is_that_of_the_phase_that_takes_most():
    phases = estimates("ppo", rewards=[Constant()])
    assert set(phases) == {"update", "optimizer step", "scoring", "sampling"}
    assert peak_estimate(phases).total == max(estimate.total for estimate in phases.values())
