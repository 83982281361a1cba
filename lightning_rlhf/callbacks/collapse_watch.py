"""Watches PPO for collapse and reward hacking."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers.utils import logging as transformers_logging

from lightning_rlhf.arguments import require_at_least, require_one_of
from lightning_rlhf.callbacks.averaged_weights import averaged_weights
from lightning_rlhf.callbacks.collapse_signs import IterationRecord, Limits
from lightning_rlhf.callbacks.heldout_scorers import HeldoutScorers
from lightning_rlhf.callbacks.model_export import ModelExport
from lightning_rlhf.callbacks.rollout_callback import RolloutCallback
from lightning_rlhf.callbacks.score_curve import can_draw, draw_score_curve, write_score_curve
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.rollout import CollectedRollout

__all__ = ["CollapseWatch"]

OnCollapse = Literal["warn", "stop", "best"]

_BEST = Path("checkpoints", "best")
_CURVE = "kl-scores"
_SECONDS_BETWEEN_PICTURES = 60.0


class CollapseWatch(RolloutCallback):
    """Watches KL, entropy, length, repetition, score spread and stop rate of PPO's rollouts, and held-out scores.

    A limit that is broken `patience` iterations in a row is warned of, once. Limits are relative to the first
    iteration, in which the policy is still the one that the run started from. `kl-scores.csv` and, where matplotlib is
    installed, `kl-scores.svg` show the trained score and the held-out ones over the KL.

    Args:
        heldout_rewards: reward functions that the policy is not rewarded by, only watched with.
        heldout_reward_model: directory or hub id of a reward model that the policy is not rewarded by, or a list of
            them.
        on_collapse: warn goes on; stop ends the run after the iteration; best ends it likewise, and writes to `model/`
            not the last policy but the best one: that of the iteration with the highest first held-out score (without
            one, trained score) among those that broke no limit.
        patience: iterations in a row that break a limit before it counts.
        max_kl: limit of the KL per response, as a share of the first iteration's entropy per response; null = none, as
            for every limit.
        min_entropy: limit of the entropy per token, as a share of the first iteration's.
        min_length: lower limit of the mean response length, as a share of the first iteration's.
        max_length: upper limit of the mean response length, as a multiple of the first iteration's.
        min_distinct_2: limit of the share of distinct token pairs in a response, as a share of the first iteration's.
        min_score_deviation: limit of the standard deviation of the scores, as a share of the first iteration's.
        min_stop_rate: limit of the share of responses that stop, as a share of the first iteration's.
        max_heldout_drop: how far a held-out score may fall below its best so far, in standard deviations over the first
            iteration's responses; what chance explains (three standard errors) never counts.
    """

    def __init__(
        self,
        heldout_rewards: list[RewardFunction] | None = None,
        heldout_reward_model: str | list[str] | None = None,
        on_collapse: OnCollapse = "warn",
        patience: int = 3,
        max_kl: float | None = 0.5,
        min_entropy: float | None = 0.2,
        min_length: float | None = 0.4,
        max_length: float | None = 2.0,
        min_distinct_2: float | None = 0.6,
        min_score_deviation: float | None = 0.1,
        min_stop_rate: float | None = 0.5,
        max_heldout_drop: float | None = 0.5,
    ) -> None:
        require_one_of(OnCollapse, "on_collapse", on_collapse)
        require_at_least(1, patience=patience)
        models = [heldout_reward_model] if isinstance(heldout_reward_model, str) else heldout_reward_model or []
        self.scorers = HeldoutScorers(models, heldout_rewards or [])
        self.on_collapse: OnCollapse = on_collapse
        self.patience = patience
        self.limits = Limits(
            max_kl=max_kl,
            min_entropy=min_entropy,
            min_length=min_length,
            max_length=max_length,
            min_distinct_2=min_distinct_2,
            min_score_deviation=min_score_deviation,
            min_stop_rate=min_stop_rate,
            max_heldout_drop=max_heldout_drop,
        )
        self.records: list[IterationRecord] = []
        """One per iteration of the run."""
        self._warned: list[str] = []
        self._best: int | None = None
        self._drawn_at = -_SECONDS_BETWEEN_PICTURES

    @property
    def components(self) -> list[object]:
        """What plug-ins may have given: their versions are recorded with the run."""
        return list(self.scorers.functions)

    def state_dict(self) -> dict[str, Any]:
        """The records, what was warned of, and which iteration's policy was kept."""
        records = [record.state() for record in self.records]
        return {"records": records, "warned": list(self._warned), "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on watching."""
        self.records = [IterationRecord(**record) for record in state_dict["records"]]
        self._warned = list(state_dict["warned"])
        self._best = state_dict["best"]

    # Lightning's hooks

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Loads the held-out reward models.

        Raises:
            ConfigError: the stage is not PPO, or a scorer is not held out.
        """
        if stage != "fit":
            return
        if getattr(pl_module, "stage", None) != "ppo":
            raise ConfigError(f"CollapseWatch must watch a PPOModule, got {type(pl_module).__name__}. Remove it.")
        self.scorers.load(trainer, pl_module)
        if not can_draw():
            rank_zero_info(
                f"{_CURVE}.svg is not drawn, {_CURVE}.csv has its numbers: matplotlib is not installed (pip install "
                "'lightning-rlhf[plot]')."
            )

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Frees the held-out reward models."""
        self.scorers.unload()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A run that was cut off after it had ended in collapse still has its model to write."""
        self._choose_model(trainer)

    def on_rollout_collected(
        self, trainer: L.Trainer, pl_module: Any, collected: CollectedRollout, iteration: int
    ) -> None:
        """Takes the iteration's numbers, looks at them, and keeps the best policy."""
        heldout = self.scorers.moments(pl_module, collected.responses)
        pipeline, metrics = pl_module.score_pipeline(), collected.statistics.metrics
        shares = {name: metrics.get(f"scores/{name}_rated_share", 1.0) for name in pipeline.names}
        record = IterationRecord(
            iteration=iteration,
            step=trainer.global_step,
            num_responses=collected.statistics.num_sequences,
            kl=metrics["objective/kl"],
            score=sum(
                weight * shares[name] * metrics[f"scores/{name}"]
                for name, weight in zip(pipeline.names, pipeline.weights, strict=True)
                if shares[name]
            ),
            score_deviation=metrics["objective/score_deviation"],
            entropy=metrics["objective/entropy"],
            response_length=metrics["rollout/response_length"],
            distinct_2=metrics["rollout/distinct_2"],
            stop_rate=metrics["rollout/stop_rate"],
            heldout={name: mean for name, (mean, _) in heldout.items()},
            heldout_deviation={name: deviation for name, (_, deviation) in heldout.items()},
        )
        self._take(trainer.strategy.broadcast(record))  # one rank's numbers decide on all
        if self.on_collapse == "best" and self._is_best() and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with _without_bars(), averaged_weights(trainer, pl_module):
                pl_module.export(Path(trainer.default_root_dir) / _BEST)
            self._best = iteration

    def _take(self, record: IterationRecord) -> None:
        before = [each for each in self.records if each.iteration < record.iteration]
        if not before:  # a run from its start, perhaps not the first that this object watches
            self._warned, self._best = [], None
        findings = self.limits.findings([*before, record])
        self.records = [*before, replace(record, causes=[finding.cause for finding in findings])]
        causes = self.collapsed()
        for finding in findings:
            if finding.cause in causes and finding.cause not in self._warned:
                self._warned.append(finding.cause)
                rank_zero_warn(f"{self._since()}: {finding.message}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Logs the held-out scores, writes the curve, and ends the run if that is asked for."""
        if not self.records:
            return
        record = self.records[-1]
        pl_module.log_global({f"heldout_scores/{name}": score for name, score in record.heldout.items()})
        self._show(trainer, finished=False)
        self._choose_model(trainer)
        causes = self.collapsed()
        if self.on_collapse == "warn" or not causes:
            return
        trainer.should_stop = True
        whose = "the last iteration" if self.on_collapse == "stop" else f"iteration {self._best}, the best one"
        rank_zero_info(
            f"the run ends after iteration {record.iteration} because the policy collapses ({', '.join(causes)}); "
            f"model/ holds the policy of {whose}."
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Draws the whole curve."""
        self._show(trainer, finished=True)

    # Judging

    def collapsed(self) -> list[str]:
        """The limits that the last `patience` iterations have all broken."""
        last = self.records[-self.patience :]
        if len(last) < self.patience:
            return []
        return [cause for cause in last[-1].causes if all(cause in record.causes for record in last)]

    def _since(self) -> str:
        now = self.records[-1].iteration
        return f"iteration {now}" if self.patience == 1 else f"iterations {now - self.patience + 1} to {now}"

    def _is_best(self) -> bool:
        """Whether the policy of the last iteration is to be kept: first by breaking no limit, then by its score."""
        now = self.records[-1]
        kept = next((record for record in self.records if record.iteration == self._best), None)
        name = next(iter(now.heldout), None)
        if kept is None or (name is not None and name not in kept.heldout):  # or nothing to compare it with
            return True
        worths = [each.score if name is None else each.heldout[name] for each in (now, kept)]
        return (not now.causes, worths[0]) > (not kept.causes, worths[1])

    def _choose_model(self, trainer: L.Trainer) -> None:
        """Whether `model/` is to be the best policy."""
        instead = Path(trainer.default_root_dir) / _BEST
        goes_back = self.on_collapse == "best" and self._best is not None and bool(self.collapsed())
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelExport):
                callback.instead = instead if goes_back else None

    def _show(self, trainer: L.Trainer, *, finished: bool) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run or not self.records:  # type: ignore[attr-defined]
            return
        root = Path(trainer.default_root_dir)
        write_score_curve(root / f"{_CURVE}.csv", self.records)
        now = time.monotonic()
        if can_draw() and (finished or now - self._drawn_at >= _SECONDS_BETWEEN_PICTURES):
            self._drawn_at = now
            draw_score_curve(root / f"{_CURVE}.svg", self.records)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Inside, transformers shows no bar for the files that it writes: this happens over and over."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
