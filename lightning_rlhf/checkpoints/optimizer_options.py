"""Learning rates, decay and other options of a resumed run's optimizer: those of this call, not the saved ones.

Lightning restores the options together with the moments, and the rates that a schedule starts from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["Options", "configured_options", "put_in_force", "saved_options"]

Options = list[dict[str, Any]]
"""One mapping per parameter group; its `lr` is the rate that a schedule starts from."""


def configured_options(optimizer: Optimizer) -> Options:
    """The options of each group before the first step, in types that a checkpoint holds."""
    return [_plain(group) for group in optimizer.param_groups]


def saved_options(checkpoint: Mapping[str, Any]) -> list[Options]:
    """What `configured_options` gave for each optimizer of the run that wrote a checkpoint.

    Args:
        checkpoint: one of an earlier version has the options with its optimizers' states only.
    """
    if recorded := checkpoint.get("lightning_rlhf", {}).get("optimizer_options"):
        return list(recorded)
    return [[_plain(group) for group in state["param_groups"]] for state in checkpoint.get("optimizer_states", ())]


def put_in_force(optimizer: Optimizer, scheduler: Any, before: Sequence[Mapping[str, Any]], now: Options) -> None:
    """Gives a restored optimizer every option that this call configured otherwise than the run before.

    An option that is the same stays as it was restored: a callback may have changed it in the course of the run.

    Args:
        optimizer: restored.
        scheduler: of its learning rates, restored; or None.
        before: the options that the run before configured.
        now: those that this one did.
    """
    if not len(before) == len(now) == len(optimizer.param_groups):
        return
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        changed = {name: value for name, value in new.items() if old.get(name) != value}
        if "lr" in changed:
            rate = changed.pop("lr")
            group["lr"] = rate if not old["lr"] or "initial_lr" not in group else group["lr"] * rate / old["lr"]
            if "initial_lr" in group:
                group["initial_lr"] = rate
        for name, value in changed.items():
            group[name] = tuple(value) if isinstance(value, list) else value
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    if isinstance(scheduler, LambdaLR):  # the schedule itself may be another, or end elsewhere
        places = zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, base, factor in places:
            group["lr"] = base * factor(scheduler.last_epoch)
    if hasattr(scheduler, "_last_lr"):
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in group.items()}
    options["lr"] = options.pop("initial_lr", options["lr"])
    return {
        name: value
        for name, value in options.items()
        if name != "params" and (value is None or isinstance(value, bool | int | float | str | list))
    }
