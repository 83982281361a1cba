"""A watched PPO run: it warns, ends, goes back, is resumed, and is otherwise the run that it would be without."""

import csv
import importlib.util
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.callbacks import CollapseWatch, ModelExport
from lightning_rlhf.callbacks import collapse_watch as module_under_test
from lightning_rlhf.data import DemonstrationData, PromptData
from lightning_rlhf.errors import ConfigError, ModelError, ScorerError
from lightning_rlhf.models import ScalarModel, load_base, save_reward_model
from lightning_rlhf.modules import PPOModule, SFTModule
from lightning_rlhf.plugin_system.interfaces import DataSource, RewardFunction
from lightning_rlhf.records import Demonstration, Message, Prompt

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*isinstance.treespec, LeafSpec.:FutureWarning",  # lightning's own
    "ignore:Be aware that when using `ckpt_path`",
)


class Prompts(DataSource):
    def load(self, split: str) -> list[Prompt]:
        return [Prompt(f"say {row}\n") for row in range(12 if split == "train" else 0)]


class Demonstrations(DataSource):
    def load(self, split: str) -> list[Demonstration]:
        return [Demonstration((Message("user", "say"), Message("assistant", "a")))]


class LowerCase(RewardFunction):
    """What the policy is rewarded with."""

    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        return [float(sum(map(str.islower, response))) for response in responses]


class UpperCase(RewardFunction):
    """Held out: what the reward forgets."""

    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        return [float(sum(map(str.isupper, response))) for response in responses]


class Random(RewardFunction):
    """Held out: draws from every generator there is."""

    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        return [random.random() + float(np.random.rand()) + float(torch.rand(())) for _ in responses]


class Failing(RewardFunction):
    def __call__(self, prompts: Any, responses: Any, **columns: Any) -> list[float]:
        return [float("nan") for _ in responses]


def ppo(**options: Any) -> PPOModule:
    defaults: dict[str, Any] = {
        "base": TinyModel(hidden_size=16, num_layers=1, num_heads=2),
        "rewards": [LowerCase()],
        "rollout_size": 8,
        "minibatch_size": 4,
        "num_epochs": 2,
        "max_response_length": 6,
        "learning_rate": 1e-2,
        "lr_schedule": "constant",
        "kl_coef": 0.0,
    }
    return PPOModule(**defaults | options)


def fit(
    path: Path,
    *callbacks: L.Callback,
    module: L.LightningModule | None = None,
    data: L.LightningDataModule | None = None,
    ckpt: Path | None = None,
    **options: Any,
) -> L.Trainer:
    L.seed_everything(1, verbose=False)
    defaults: dict[str, Any] = {
        "max_epochs": 4,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    trainer = L.Trainer(default_root_dir=path, callbacks=list(callbacks), **defaults | options)
    data = data or PromptData(Prompts(), batch_size=4)
    trainer.fit(module or ppo(), data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return trainer


def curve(path: Path) -> list[dict[str, str]]:
    with (path / "kl-scores.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


class Replay:
    """A run whose numbers are written down beforehand: what the watch decides on them."""

    USUAL = {
        "objective/kl": 1.0,
        "objective/entropy": 10.0,
        "objective/score_deviation": 1.0,
        "rollout/response_length": 10.0,
        "rollout/distinct_2": 0.9,
        "rollout/stop_rate": 1.0,
        "scores/first": 1.0,
        "scores/second": 2.0,
    }

    def __init__(self, path: Path, watch: CollapseWatch) -> None:
        self.watch = watch
        self.export = ModelExport()
        self.exported: list[int] = []
        self.logged: dict[str, float] = {}
        self.trainer: Any = SimpleNamespace(
            strategy=SimpleNamespace(broadcast=lambda value: value),
            global_step=0,
            default_root_dir=str(path),
            fast_dev_run=False,
            is_global_zero=True,
            callbacks=[watch, self.export],
            should_stop=False,
        )
        self.module = SimpleNamespace(
            score_pipeline=lambda: SimpleNamespace(names=["first", "second"], weights=[1.0, 0.5]),
            export=lambda path: self.exported.append(self.iteration),
            log_global=self.logged.update,
        )

    def play(self, *iterations: dict[str, float]) -> "Replay":
        for changes in iterations:
            self.iteration = len(self.watch.records)
            statistics = SimpleNamespace(metrics=self.USUAL | changes, num_sequences=1000)
            collected: Any = SimpleNamespace(statistics=statistics, responses=None)
            self.watch.on_rollout_collected(self.trainer, self.module, collected, self.iteration)
            self.watch.on_train_epoch_end(self.trainer, self.module)
        return self


FLAT = {"objective/entropy": 1.0}
QUIET = {"max_kl": None, "min_stop_rate": None}


def test_a_limit_counts_once_it_is_broken_several_times_in_a_row_and_is_warned_of_once(tmp_path, recwarn):
    replay = Replay(tmp_path, CollapseWatch(patience=2)).play({}, FLAT, {}, FLAT)
    assert len(recwarn) == 0
    replay.play(FLAT, FLAT, {}, FLAT, FLAT)
    assert [str(warning.message).partition(":")[0] for warning in recwarn] == ["iterations 3 to 4"]
    assert "the policy's entropy must stay above 0.2 nats per token" in str(recwarn[0].message)
    replay.play({"rollout/distinct_2": 0.1}, {"rollout/distinct_2": 0.1})
    assert "distinct token pairs" in str(recwarn[1].message)
    assert not replay.trainer.should_stop


def test_the_curve_shows_the_weighted_sum_of_the_scorers(tmp_path):
    Replay(tmp_path, CollapseWatch()).play({}, {"scores/second": 6.0})
    assert [row["score"] for row in curve(tmp_path)] == ["2.0", "4.0"]


def test_stop_ends_the_run_with_the_policy_as_it_is(tmp_path, recwarn):
    replay = Replay(tmp_path, CollapseWatch(on_collapse="stop", patience=2)).play({}, FLAT)
    assert not replay.trainer.should_stop
    replay.play(FLAT)
    assert replay.trainer.should_stop
    assert replay.exported == []
    assert replay.export.instead is None


def test_best_keeps_the_policy_of_the_highest_score_that_breaks_no_limit(tmp_path, recwarn):
    replay = Replay(tmp_path, CollapseWatch(on_collapse="best", patience=2))
    replay.play({}, {"scores/first": 3.0}, {"scores/first": 2.0}, FLAT | {"scores/first": 9.0})
    assert replay.exported == [0, 1]
    assert replay.export.instead is None
    replay.play({"scores/first": 4.0}, FLAT, FLAT)
    assert replay.exported == [0, 1, 4]
    assert replay.trainer.should_stop
    assert replay.export.instead == tmp_path / "checkpoints" / "best"


def test_a_run_that_recovers_ends_with_its_last_policy(tmp_path, recwarn):
    replay = Replay(tmp_path, CollapseWatch(on_collapse="best", patience=1)).play({}, FLAT)
    assert replay.export.instead is not None
    replay.play({})  # as where trainer.min_epochs has it go on
    assert replay.export.instead is None


def test_a_restored_watch_decides_as_the_one_that_was_saved(tmp_path, recwarn):
    replay = Replay(tmp_path, CollapseWatch(on_collapse="best", patience=2)).play({}, {"scores/first": 3.0}, FLAT, FLAT)
    restored = CollapseWatch(on_collapse="best", patience=2)
    restored.load_state_dict(replay.watch.state_dict())
    assert restored.records == replay.watch.records
    again = Replay(tmp_path, restored)
    restored.on_fit_start(again.trainer, again.module)  # the model was not written yet
    assert again.export.instead == tmp_path / "checkpoints" / "best"
    before = len(recwarn)
    again.play(FLAT, {"scores/first": 2.5})
    assert len(recwarn) == before
    assert again.exported == []


def test_another_run_with_the_same_watch_begins_anew(tmp_path, recwarn):
    watch = CollapseWatch(on_collapse="best", patience=1)
    Replay(tmp_path, watch).play({"scores/first": 9.0}, FLAT)
    watch.records, replay = [], Replay(tmp_path, watch)
    replay.play({}, {"rollout/distinct_2": 0.1})
    assert replay.exported == [0]
    assert watch.state_dict()["warned"] == ["repetition"]


def test_a_watched_run_is_the_run_that_it_would_be_without(tmp_path):
    fit(tmp_path / "alone", max_epochs=2)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    watch = CollapseWatch([Random()], on_collapse="best", **QUIET)
    fit(tmp_path / "watched", watch, max_epochs=2)
    assert same(weights(tmp_path / "alone" / "model"), weights(tmp_path / "watched" / "model"))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]
    assert len({record.heldout["Random"] for record in watch.records}) == 2
    assert (tmp_path / "watched" / "kl-scores.svg").is_file()


def test_a_policy_that_exploits_its_reward_is_stopped_and_the_best_one_is_the_model(tmp_path, caplog):
    watch = CollapseWatch([UpperCase()], on_collapse="best", patience=2, max_heldout_drop=0.3, **QUIET)
    module = ppo(rollout_size=32, minibatch_size=32, num_epochs=4, learning_rate=2e-2)
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match="The policy exploits what its reward gets wrong"):
        fit(tmp_path, watch, module=module, max_epochs=30)
    rows = curve(tmp_path)
    assert 3 < len(rows) < 30
    assert float(rows[-1]["score"]) > float(rows[0]["score"])
    assert "heldout/UpperCase" in rows[-1]["causes"].split()
    best = max((row for row in rows if not row["causes"]), key=lambda row: float(row["heldout/UpperCase"]))
    assert f"model/ holds the policy of iteration {best['iteration']}, the best one" in caplog.text
    again = ppo(rollout_size=32, minibatch_size=32, num_epochs=4, learning_rate=2e-2)
    if int(best["iteration"]):
        fit(tmp_path / "again", module=again, max_epochs=int(best["iteration"]))
    else:
        again.actor_critic.policy.model.save_pretrained(tmp_path / "again" / "model")
    assert same(weights(tmp_path / "model"), weights(tmp_path / "again" / "model"))


def test_a_run_resumed_in_the_middle_of_an_iteration_is_watched_as_if_it_had_not_been_cut(tmp_path):
    def watch() -> CollapseWatch:
        return CollapseWatch([UpperCase()], on_collapse="best", **QUIET)

    every_step = ModelCheckpoint(tmp_path / "c", save_top_k=-1, filename="{step}", every_n_train_steps=1)
    whole = watch()
    fit(tmp_path / "whole", whole, every_step, max_epochs=3)
    for step in (4, 6, 8):  # of 4 in an iteration
        resumed = watch()
        path = tmp_path / f"from-{step}"
        fit(path, resumed, ckpt=tmp_path / "c" / f"step={step}.ckpt", max_epochs=3)
        assert resumed.records == whole.records
        assert resumed.state_dict() == whole.state_dict()
        assert (path / "kl-scores.csv").read_bytes() == (tmp_path / "whole" / "kl-scores.csv").read_bytes()


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "model"
    loaded = load_base(TinyModel(hidden_size=16, num_layers=1, num_heads=2, seed=3))
    save_reward_model(ScalarModel.from_language_model(loaded, seed=0), loaded.tokenizer, path, None)
    return str(path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_reward_model_can_be_held_out_and_stays_out_of_the_checkpoint(tmp_path, reward_model, precision):
    watch = CollapseWatch(heldout_reward_model=reward_model, heldout_rewards=[UpperCase()], **QUIET)
    trainer = fit(tmp_path, watch, max_epochs=2, precision=precision)
    assert watch.records[0].heldout.keys() == {"reward_model", "UpperCase"}
    assert watch.records[0].heldout_deviation["reward_model"] > 0
    assert {"heldout_scores/reward_model", "heldout_scores/UpperCase"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("reward_model" in name for name in names)


def test_a_reward_model_that_the_policy_is_rewarded_by_is_not_held_out(tmp_path, reward_model):
    module = ppo(reward_model=reward_model, rewards=None)
    with pytest.raises(ConfigError, match="heldout_reward_model must be one that the policy is not rewarded by"):
        fit(tmp_path, CollapseWatch(heldout_reward_model=[reward_model + "/."]), module=module)


def test_a_reward_model_that_is_none_is_reported_before_training(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        fit(tmp_path, CollapseWatch(heldout_reward_model="./nowhere"))


def test_a_heldout_scorer_that_fails_names_itself_and_the_iteration(tmp_path):
    with pytest.raises(ScorerError, match=r"reward function 'Failing' must be a finite number.*in iteration 0"):
        fit(tmp_path, CollapseWatch([Failing()]))


def test_another_stage_than_ppo_is_refused(tmp_path):
    module = SFTModule(TinyModel(hidden_size=16, num_layers=1, num_heads=2))
    with pytest.raises(ConfigError, match="CollapseWatch must watch a PPOModule, got SFTModule"):
        fit(tmp_path, CollapseWatch(), module=module, data=DemonstrationData(Demonstrations()))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"on_collapse": "panic"}, "must be one of warn, stop, best"),
        ({"patience": 0}, "patience must be at"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options, rule):
    with pytest.raises(ConfigError, match=rule):
        CollapseWatch(**options)


def test_without_matplotlib_there_are_numbers_and_one_message(tmp_path, monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name))
    with caplog.at_level("INFO"):
        fit(tmp_path, CollapseWatch(**QUIET), max_epochs=2)
    assert caplog.text.count("kl-scores.svg is not drawn") == 1
    assert len(curve(tmp_path)) == 2
    assert not (tmp_path / "kl-scores.svg").exists()


def test_a_long_run_is_drawn_once_a_minute_and_at_its_end(tmp_path, monkeypatch):
    drawn, clock = [], iter([0.0, 10.0, 65.0, 70.0, 71.0])
    monkeypatch.setattr(module_under_test, "draw_score_curve", lambda path, records: drawn.append(len(records)))
    monkeypatch.setattr(module_under_test.time, "monotonic", lambda: next(clock))
    replay = Replay(tmp_path, CollapseWatch()).play({}, {}, {}, {})
    replay.watch.on_train_end(replay.trainer, replay.module)
    assert drawn == [1, 3, 4]


def test_a_trial_run_writes_nothing(tmp_path):
    fit(tmp_path, CollapseWatch(on_collapse="best"), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []
