"""Arguments that a resumed run has otherwise than the run that wrote its checkpoint."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L

from lightning_rlhf.errors import ConfigError

__all__ = ["changed_arguments", "is_in_epoch", "require_unchanged", "shown_changes"]


def changed_arguments(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Names of the arguments that both records hold with different values.

    >>> sorted(changed_arguments({"rate": 1, "depth": 2}, {"rate": 3, "depth": 2, "width": 4}))
    ['rate']
    """
    return {name for name in before.keys() & now.keys() if before[name] != now[name]}


def shown_changes(names: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The changes as a message names them.

    >>> shown_changes({"rate"}, {"rate": 1}, {"rate": 3})
    'rate 1 -> 3'
    """
    return ", ".join(f"{name} {before[name]} -> {now[name]}" for name in sorted(names))


def require_unchanged(subject: str, before: Mapping[str, Any], now: Mapping[str, Any], advice: str) -> None:
    """Refuses to go on with settings that cannot change where a checkpoint stands.

    Args:
        subject: what must keep its settings.
        before: settings of the checkpoint; those that it does not record are not asked about.
        now: settings of this run.
        advice: what to do.

    Raises:
        ConfigError: one of them differs.
    """
    if changed := changed_arguments(before, now):
        raise ConfigError(f"{subject} must keep its settings, got {shown_changes(changed, before, now)}. {advice}")


def is_in_epoch(trainer: L.Trainer) -> bool:
    """Whether a run stands in the middle of an epoch, once its checkpoint is restored."""
    epoch: Any = trainer.fit_loop.epoch_progress.current
    return bool(epoch.started != epoch.processed)
