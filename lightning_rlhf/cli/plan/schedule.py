"""How many passes and steps an epoch and the whole run have."""

import math
from dataclasses import dataclass

from lightning_rlhf.cli.estimate import num_ranks
from lightning_rlhf.cli.estimate.time import StepTimes
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.modules import PPOModule

__all__ = ["Schedule", "run_schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The length of a run, on one rank.

    Args:
        passes: micro-batches of an epoch, or of a PPO iteration; None: the number of rows is not known.
        accumulate: micro-batches per optimizer step.
        responses: sampled in an iteration; 0: not PPO.
        epochs: of the run, iterations in PPO, perhaps not whole; None: the run has no end that is known.
    """

    passes: int | None
    accumulate: int
    responses: int
    epochs: float | None

    @property
    def steps(self) -> int | None:
        """Optimizer steps of an epoch."""
        return None if self.passes is None else math.ceil(self.passes / self.accumulate)

    def step_s(self, times: StepTimes) -> float:
        """Seconds of an optimizer step with all its micro-batches."""
        return self.accumulate * times.pass_s + times.optimizer_s

    def epoch_s(self, times: StepTimes) -> float | None:
        """Seconds of an epoch or iteration, without validation."""
        if self.passes is None or self.steps is None:
            return None
        return self.passes * times.pass_s + self.steps * times.optimizer_s + self.responses * (times.rollout_s or 0.0)

    def run_s(self, times: StepTimes) -> float | None:
        """Seconds of the whole run, without validation."""
        epoch_s = self.epoch_s(times)
        return None if epoch_s is None or self.epochs is None else self.epochs * epoch_s


def run_schedule(run: PreparedRun, num_rows: int | None) -> Schedule:
    """The schedule of a run.

    Args:
        run: that has not started.
        num_rows: rows of its training split; None: not known.
    """
    module, trainer = run.module, run.trainer
    responses = 0
    if isinstance(module, PPOModule):
        responses = module.rollout_size * module.settings.num_responses_per_prompt
        passes: int | None = module.num_epochs * math.ceil(responses / module.minibatch_size)
    elif num_rows is None:
        passes = None
    else:
        passes = math.ceil(math.ceil(num_rows / num_ranks(run.placement)) / run.data.batch_size)
    limit = trainer.limit_train_batches
    if isinstance(limit, float) and passes is not None:
        passes = int(passes * limit)
    elif isinstance(limit, int):
        passes = limit if passes is None else min(passes, limit)
    schedule = Schedule(passes, trainer.accumulate_grad_batches, responses, None)
    ends = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        ends.append(float(trainer.max_epochs))
    if trainer.max_steps >= 0 and schedule.steps:
        ends.append(trainer.max_steps / schedule.steps)
    return Schedule(passes, schedule.accumulate, responses, min(ends) if ends else None)
