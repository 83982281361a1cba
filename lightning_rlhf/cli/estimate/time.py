"""How long a step takes, from a few steps on real rows: they move no weight, and nothing is kept of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from lightning_rlhf.cli.estimate.probes import micro_batch, update_step
from lightning_rlhf.cli.prepared import PreparedRun
from lightning_rlhf.data.collation import collate_prompts
from lightning_rlhf.data.rows import Row
from lightning_rlhf.data.sampling import row_order
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.modules.optimization import adamw
from lightning_rlhf.rollout import collect_rollout, select_rows

__all__ = ["StepTimes", "measure_times"]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds on this machine.

    Args:
        pass_s: forward and backward of one micro-batch.
        optimizer_s: a step of the optimizer, clipping included.
        rollout_s: sampling and scoring one response, in batches as the run makes them; None: not PPO.
        response_length: tokens of those responses on average; None: not PPO.
    """

    pass_s: float
    optimizer_s: float
    rollout_s: float | None = None
    response_length: float | None = None


def measure_times(run: PreparedRun, rows: Sequence[Row], num_steps: int) -> StepTimes:
    """Times the median of a few steps after one that is not counted.

    Args:
        run: that has not started. Its optimizer is one of learning rate 0, and the gradients are cleared at the end.
        rows: of its training split, at least one.
        num_steps: steps that are timed.
    """
    order = [int(place) for place in row_order(run.module.seed, "rows", 0, len(rows))]
    if isinstance(run.module, PPOModule):
        return _ppo_times(run, run.module, [rows[place] for place in order], num_steps)
    size = min(run.data.batch_size, len(rows))
    places = (order * (1 + size * (num_steps + 1) // len(order)))[: size * (num_steps + 1)]
    batches = [[rows[place] for place in places[start : start + size]] for start in range(0, len(places), size)]
    passes = [micro_batch(run, batch[: len(rows)]) for batch in batches]
    return StepTimes(*_step_times(run, passes))


def _ppo_times(run: PreparedRun, module: PPOModule, rows: Sequence[Row], num_steps: int) -> StepTimes:
    settings = module.settings
    number = min(max(run.data.batch_size // settings.num_responses_per_prompt, 1), module.rollout_size, len(rows))
    prompts = collate_prompts(rows[:number], range(number))
    begin = _now(module.device)
    collected = collect_rollout(
        module.actor_critic,
        prompts,
        module.score_pipeline(),
        run.data.formatter,
        settings,
        module.rollout_runtime(),
        seed=module.seed,
        iteration=0,
        kl_coef=module.kl_coef,
        batch_size=run.data.batch_size,
    )
    there = len(collected.rollout.response_ids)
    rollout_s = (_now(module.device) - begin) / there
    chosen = torch.arange(min(module.minibatch_size, module.rollout_size * settings.num_responses_per_prompt)) % there
    minibatch = select_rows(collected.rollout, chosen)
    passes: list[Callable[[], Tensor]] = [partial(update_step, run, module, minibatch)] * (num_steps + 1)
    length = float(collected.rollout.completion_mask.sum(-1).double().mean())
    return StepTimes(*_step_times(run, passes), rollout_s, length)


def _step_times(run: PreparedRun, passes: Sequence[Callable[[], Tensor]]) -> tuple[float, float]:
    device, module = run.module.device, run.module
    groups = [{**group, "lr": 0.0} for group in module.parameter_groups()]  # the weights stay as they are
    optimizer = adamw(groups, weight_decay=module.weight_decay)
    trained: list[nn.Parameter] = [weight for group in optimizer.param_groups for weight in group["params"]]
    pass_times, step_times = [], []
    with torch.enable_grad():
        for forward in passes:
            begin = _now(device)
            forward().backward()  # type: ignore[no-untyped-call]
            between = _now(device)
            if run.trainer.gradient_clip_val:
                nn.utils.clip_grad_norm_(trained, run.trainer.gradient_clip_val)
            optimizer.step()
            optimizer.zero_grad()
            pass_times.append(between - begin)
            step_times.append(_now(device) - between)
    return median(pass_times[1:]), median(step_times[1:])


def _now(device: torch.device) -> float:
    """After all work that was given to the device."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
